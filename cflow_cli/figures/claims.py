"""What a figure claims, and whether the numbers bear it out."""

from __future__ import annotations

import re
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


@dataclass(frozen=True)
class Check:
    """A claim before it is measured, once or for several things; called with a number it is a :class:`Claim`.

    Parameters
    ----------
    text
        What is measured. Words in braces, as in ``loss at {each rate}``, stand for what tells the measurements apart.
    low, high
        The bounds, included; also arguments of the call where they depend on the runs.
    paper
        What the paper has, for the table in the figure's README.
    words
        The bounds as that table says them, where numbers alone do not.

    Examples
    --------
    >>> edge = Check("sharpness over 2/η at {each η}", 0.95, 1.05)
    >>> print(edge(1.02, "η = 0.1"))
    PASS  sharpness over 2/η at η = 0.1: 1.02 (0.95 to 1.05)
    """

    text: str
    low: float = -inf
    high: float = inf
    paper: str = ""
    words: str = ""

    def __call__(
        self, measured: float, *subjects: object, low: float | None = None, high: float | None = None
    ) -> Claim:
        """The claim that ``measured`` lies within the bounds, with words in the place of those in braces."""
        text = re.sub(r"\{.*?\}", "{}", self.text).format(*subjects)
        return Claim(
            text, float(measured), self.low if low is None else low, self.high if high is None else high
        )

    @property
    def general_text(self) -> str:
        """The text for all its measurements."""
        return re.sub(r"[{}]", "", self.text)

    @property
    def bounds(self) -> str:
        """The bounds in words."""
        return self.words or Claim("", 0.0, self.low, self.high).bounds


def truth(text: str) -> Check:
    """A check without a number of its own: called with True or False, which count as 1 and 0."""
    return Check(text, low=1.0, words="true")
