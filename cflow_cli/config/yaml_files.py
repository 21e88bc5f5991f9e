"""Reading YAML in bounded time and memory, whoever wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cflow_cli.errors import UserError

# Safe loaders both; the one in C is ten times faster, but is not in every build of PyYAML.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_BYTES = 1_000_000
_TOO_LARGE = "it has more than 1 MB, as no config has"
_VALUES = 100_000
_DEPTH = 50


def load(path: Path) -> Any:
    """Read a YAML file as plain values.

    Raises
    ------
    UserError
        If it cannot be read, or is larger than any config.
    """
    return parse(read(path), path)


def read(path: Path) -> str:
    """Read the text of a YAML file.

    Raises
    ------
    UserError
        As :func:`load`.
    """
    try:
        if not path.is_file():
            raise UserError(f"cannot read {path}: it is not a file")
        if path.stat().st_size > _BYTES:
            raise UserError(
                f"cannot read {path}: it has more than {_BYTES // 1_000_000} MB, as no config has"
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def parse(text: str, path: Path) -> Any:
    """Read YAML as plain values; ``path`` is for the message.

    Raises
    ------
    UserError
        As :func:`load`.
    """
    try:
        if len(text) > _BYTES:
            raise ValueError(_TOO_LARGE)
        check_shape(text)
        return yaml.load(text, LOADER)
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())}") from error


def check_shape(text: str) -> None:
    """Raise a ValueError for YAML that nests deeper or, with its aliases written out, holds more than any config.

    A few lines of aliases to lists of aliases stand for millions of values, and brackets in their thousands end in a
    stack that overflows; both are seen here in one pass over the file.
    """
    sizes: dict[str, int] = {}
    # Anchor and number of values of each collection that is open.
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
            if len(open_nodes) > _DEPTH:
                raise ValueError(f"it nests deeper than {_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"the alias *{event.anchor} is not of a value before it")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if total > _VALUES:
            raise ValueError(f"it stands for more than {_VALUES} values")
