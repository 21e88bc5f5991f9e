"""Moments as the files of runs and sweeps have them, and times in words."""

from __future__ import annotations

import datetime


def now() -> str:
    """Moment of now, UTC, to the second: ``2026-01-31T12:00:00+00:00``."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def seconds_since(moment: str | None) -> float:
    """Seconds since a moment in a manifest; infinite for one that is missing, 0 for one that this clock has yet to see.

    Examples
    --------
    >>> seconds_since(None), seconds_since("2999-01-01T00:00:00+00:00")
    (inf, 0.0)
    """
    try:
        then = datetime.datetime.fromisoformat(str(moment))
        # Clocks differ between machines, and are set back.
        return max((datetime.datetime.now(datetime.UTC) - then).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return float("inf")


def duration(seconds: float) -> str:
    """A time in words with two digits.

    Examples
    --------
    >>> duration(45), duration(720), duration(12600), duration(345600), duration(float("inf"))
    ('45 s', '12 min', '3.5 h', '4 days', 'ever')
    """
    if seconds == float("inf"):
        return "ever"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"
