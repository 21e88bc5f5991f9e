"""Checks of single values: each gives the value as a run uses it, or raises a ValueError. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Check = Callable[[Any], Any]

# float32 holds the square of any number up to here; what is larger is a slip of the hand.
LARGEST = 1e15
# What optimizers count steps in.
MOST_STEPS = 2**31 - 1
_SHOWN = 100


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; true and false are none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def format_value(value: Any) -> str:
    """A value as messages show it: text with quotes."""
    try:
        text = repr(value) if isinstance(value, str) else str(value)
    except ValueError:  # an integer of more digits than Python writes
        text = "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


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
    """A number above 0, and not above ``LARGEST``."""
    require(is_number(value) and 0 < value <= LARGEST)
    return float(value)


def not_negative(value: Any) -> float:
    """A number of at least 0, and not above ``LARGEST``."""
    require(is_number(value) and 0 <= value <= LARGEST)
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
