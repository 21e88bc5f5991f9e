"""The size of a config once its interpolations are replaced, told before any is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cflow_cli.errors import UserError

_MOST = 100_000
_REFERENCE = re.compile(r"\$\{\s*(?:oc\.(?:select|deprecated|dict\.\w+)\s*:\s*)?([^${}:,]+?)\s*[,}]")
# A name that is put together from values, or a value from a text: what they stand for shows only when it is there.
_MADE_UP = re.compile(r"\$\{[^{}:]*\$\{|\$\{\s*oc\.create\b")


def check_interpolations(config: Any) -> None:
    """Check that references between values lead to an end, and that what they stand for has a bounded size.

    Twenty lines ``a: ${b}${b}``, ``b: ${c}${c}``, … stand for a million copies of the last; OmegaConf follows each.

    Parameters
    ----------
    config
        As plain values, interpolations as they are written.

    Raises
    ------
    UserError
        For a circle, for what is too large, and for a reference whose name or value is made up by another.
    """
    sizes: dict[str, int | None] = {}
    try:
        total = _size_of(config, "", config, sizes)
    except RecursionError:
        raise UserError("the ${…} of the config lead through too many values") from None
    if total > _MOST:
        raise UserError(f"the config stands for more than {_MOST} characters once its ${{…}} are replaced")


def _size_of(node: Any, where: str, root: Any, sizes: dict[str, int | None]) -> int:
    """Characters of a node with its references replaced; ``sizes`` remembers, None while it is being found."""
    if where in sizes:
        known = sizes[where]
        if known is None:
            raise UserError(f"{where} refers to itself through ${{…}}")
        return known
    sizes[where] = None
    if isinstance(node, Mapping):
        size = sum(_size_of(value, _join(where, key), root, sizes) for key, value in node.items())
    elif isinstance(node, list):
        size = sum(_size_of(value, _join(where, place), root, sizes) for place, value in enumerate(node))
    elif isinstance(node, str) and "${" in node:
        if _MADE_UP.search(node):
            raise UserError(f"{where}: ${{…}} must hold the name of a key, and not what makes up another one")
        size = len(node)
        for reference in _REFERENCE.findall(node):
            key, found = _follow(reference, where, root)
            size += _size_of(found, key, root, sizes)
    else:
        size = len(node) if isinstance(node, str) else 1
    sizes[where] = min(size, _MOST + 1)
    return min(size, _MOST + 1)


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _follow(reference: str, where: str, root: Any) -> tuple[str, Any]:
    """Key and value that a reference leads to; a value that is not there is None, which OmegaConf will say."""
    dots = len(reference) - len(reference.lstrip("."))
    steps = where.split(".")[:-dots] if dots else []
    steps += [step for step in re.split(r"[.\[\]]+", reference.lstrip(".")) if step]
    value = root
    for step in steps:
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            value = None
    return ".".join(steps), value
