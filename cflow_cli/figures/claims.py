"""What a figure claims, and whether the numbers bear it out."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class Claim:
    """A statement that a number lies between two bounds.

    Parameters
    ----------
    text
        What is measured, so that ``text: 1.02 (0.95 to 1.05)`` reads as a sentence.
    measured
        The number; NaN, which is no measurement, bears out nothing.
    low, high
        Its bounds, included.
    """

    text: str
    measured: float
    low: float = -inf
    high: float = inf

    @property
    def passed(self) -> bool:
        """Whether the number lies within the bounds."""
        return bool(self.low <= self.measured <= self.high)

    @property
    def bounds(self) -> str:
        """The bounds in words."""
        if self.low == -inf:
            return f"at most {self.high:.4g}"
        return f"at least {self.low:.4g}" if self.high == inf else f"{self.low:.4g} to {self.high:.4g}"

    def __str__(self) -> str:
        """``PASS  what is measured: 1.02 (0.95 to 1.05)``."""
        return f"{'PASS' if self.passed else 'FAIL'}  {self.text}: {self.measured:.4g} ({self.bounds})"


def holds(text: str, true: bool) -> Claim:
    """A claim without a number of its own: 1 where it is true, else 0."""
    return Claim(text, float(true), low=1.0)
