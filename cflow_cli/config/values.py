"""Checks of single values: each gives the value as a run uses it, or raises a ValueError. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Check = Callable[[Any], Any]


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def format_value(value: Any) -> str:
    """A value as messages show it: text with quotes."""
    return repr(value) if isinstance(value, str) else str(value)


def require(holds: bool) -> None:
    """Raise a ValueError unless a condition holds; the message is left to whoever knows the key."""
    if not holds:
        raise ValueError


def whole(value: Any) -> int:
    """A whole number; 1e3 reads as a float, and everyone means the integer."""
    require(is_number(value) and value == int(value))
    return int(value)


def whole_from(least: int, most: float = math.inf) -> Check:
    """Check that a value is a whole number within bounds."""

    def check(value: Any) -> int:
        require(least <= whole(value) <= most)
        return whole(value)

    return check


def positive(value: Any) -> float:
    """A number above 0."""
    require(is_number(value) and value > 0)
    return float(value)


def not_negative(value: Any) -> float:
    """A number of at least 0."""
    require(is_number(value) and value >= 0)
    return float(value)


def one_of(*allowed: str) -> Check:
    """Check that a value is one of some words."""

    def check(value: Any) -> str:
        require(value in allowed)
        return str(value)

    return check


def unless(word: str | None, check: Check) -> Check:
    """Let one word through as None, and check every other value."""
    return lambda value: None if value == word else check(value)
