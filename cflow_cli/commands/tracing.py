"""What ``cflow path`` asks of the rooms below. Apart from its options, because JAX and pandas take seconds to load."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep

from cflow_cli.config import composing
from cflow_cli.config.path_settings import PathSettings
from cflow_cli.errors import UserError
from cflow_cli.report import connectivity, terminal
from cflow_cli.report.tables import format_value
from cflow_cli.runs import tracing
from cflow_cli.runs.ends import read_end
from cflow_cli.runs.launching import fresh_folder, make_folder
from cflow_cli.storage import paths


def run(ends: Sequence[str], words: Sequence[str], config_dir: Path | None, *, trust: bool) -> int:
    """Do what ``cflow path`` does.

    Parameters
    ----------
    ends
        Two of ``RUN[@PROCESS[@STEP]]``.
    words
        ``key=value`` each.
    config_dir, trust
        Who vouches for what the configs of the runs name; see :mod:`cflow_cli.runs.receiving`.

    Raises
    ------
    UserError
        If the request cannot be carried out; nothing is written then.
    """
    settings = PathSettings.of(dict(map(_pair, words)))
    one, two = (read_end(text, config_dir, trust=trust) for text in ends)
    for note in dict.fromkeys([*one.notes, *two.notes]):
        print(f"note: {note}", flush=True)
    out = settings.out
    if out is not None and out.is_dir() and any(out.iterdir()) and not paths.is_path(out):
        raise UserError(f"out={out} is a folder with other files; choose another one")
    traced = tracing.trace((one, two), settings, lambda kind: print(f"{kind} …", flush=True))
    folder = _folder(out)
    traced.save(folder)
    found = paths.read(folder)
    connectivity.save(found, folder / "path.png")
    console = terminal.make_console()
    terminal.print_table(connectivity.ends_table(found), console)
    terminal.print_table(connectivity.table(found), console)
    print(f"folder {folder}")
    return 0


def straight_line(one: Path, two: Path) -> str:
    """The straight line between the ends of two runs' optimizers, in a sentence.

    Raises
    ------
    UserError
        If they have no landscape in common, or a config names what is neither of this package nor of optax.
    """
    line = tracing.straight_line(read_end(str(one)), read_end(str(two))).summary
    numbers = [f"{word} {format_value(line[word], 'number')}" for word in ("barrier", "excess", "distance")]
    return f"straight line between the optimizers' ends: {', '.join(numbers)}"


def _pair(word: str) -> tuple[str, Any]:
    override = composing.parse(word)
    if override is None:
        raise UserError(f"cannot read {word!r}: after the key and the sign comes a value, as in steps=300")
    value: Any = override.value()
    return override.key_or_group, list(value.list) if isinstance(value, ChoiceSweep) else value


def _folder(chosen: Path | None) -> Path:
    if chosen is None:
        return fresh_folder(Path("outputs") / time.strftime("%Y-%m-%d") / time.strftime("%H-%M-%S_path"))
    make_folder(chosen, again=True)
    return chosen
