"""``cflow path``: whether two points that runs have reached are connected."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from cflow_cli.commands.parsing import Parser
from cflow_cli.config.path_settings import PATH_SETTINGS, PathSettings
from cflow_cli.errors import UserError

_EPILOG = """\
examples:
  cflow path outputs/A@discrete outputs/A@central
  cflow path outputs/A outputs/B kind=line,bezier,chain
  cflow path outputs/A outputs/B match=true
  cflow path outputs/A outputs/B kind=dropout halves=100
  cflow path outputs/A@central@200 outputs/B@central@200 kind=bezier steps=1000 out=outputs/bezier
  cflow run init.from=outputs/bezier init.process=bezier init.t=0.5
"""


def parser() -> Parser:
    """Build the parser of ``cflow path``."""
    out = Parser(prog="cflow path", add_help=False)
    out.add_argument("words", nargs="*")
    out.add_argument("-h", "--help", action="store_true")
    out.add_argument("-cd", "--config-dir", type=Path)
    out.add_argument("--trust", action="store_true")
    return out


def words(_: Sequence[str]) -> list[str]:
    """What a word of its command line can be: a key."""
    return [f"{key}=" for key in PATH_SETTINGS]


def main(argv: Sequence[str]) -> int:
    """Run ``cflow path``.

    Parameters
    ----------
    argv
        Arguments after ``path``.

    Returns
    -------
    int
        Exit status.

    Raises
    ------
    UserError
        If the runs have no landscape in common, or a path cannot be made; nothing is written then.
    """
    args = parser().parse_intermixed_args(argv)
    if args.help:
        print(_help())
        return 0
    settings = [word for word in args.words if re.match(r"[\w.]+=", word)]
    ends = [word for word in args.words if word not in settings]
    if len(ends) != 2:
        raise UserError(
            f"cflow path takes two ends, got {len(ends)}: cflow path RUN[@PROCESS[@STEP]] RUN[@PROCESS[@STEP]]"
        )
    config_dir = None if args.config_dir is None else args.config_dir.expanduser()
    if config_dir is not None and not config_dir.is_dir():
        raise UserError(f"--config-dir: {config_dir} is not an existing folder")
    # JAX and pandas take seconds to load, for which help must not wait.
    from cflow_cli.commands import tracing

    return tracing.run(ends, settings, config_dir, trust=args.trust)


def _help() -> str:
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    defaults = {field.name: field.default for field in fields(PathSettings)}
    entries = []
    for key, setting in PATH_SETTINGS.items():
        default = defaults[key]
        told = ",".join(default) if isinstance(default, tuple) else str(default).lower()
        meaning = setting.meaning + ("" if default is None else f" ({told})")
        entries.append(
            textwrap.fill(meaning, width, initial_indent=f"  {key + '=':<10}", subsequent_indent=" " * 12)
        )
    return "\n".join(
        [
            "usage: cflow path RUN[@PROCESS[@STEP]] RUN[@PROCESS[@STEP]] [key=value …] [--config-dir FOLDER] [--trust]",
            "",
            textwrap.fill(
                "Connect two points that runs of one model, data and loss have reached, by default their optimizers at "
                "their newest checkpoints, and measure the loss on the way. Written are path.json, path.parquet, "
                "path.npz and path.png.",
                width,
            ),
            "",
            "keys:",
            *entries,
            "",
            "options:",
            "  --config-dir FOLDER  the folder of your own configs that the runs were started with",
            "  --trust              build whatever the configs of the runs name; without it a folder is data only",
            "",
            _EPILOG,
        ]
    ).rstrip()
