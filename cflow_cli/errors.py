"""Errors whose message is meant for the user as it stands, and the exit statuses of commands."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

_T = TypeVar("_T")

EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

LOST = (
    "another program of this run is gone: it was ended, or its machine cannot be reached; "
    "cflow resume continues the run"
)
"""What is told where a run is computed by several programs and not all of them are there any more."""
# Words in what JAX raises where devices of different programs cannot exchange their sums.
_BROKEN = ("Gloo ", "remote process exited", "coordination service", "CoordinationService")


class UserError(Exception):
    """What the user asked for cannot be done; the message says what is wrong, what is allowed, what helps."""


def printable(text: str) -> str:
    r"""Text from a file as one line that a terminal, a table and a comment show and do not obey.

    Line breaks become spaces; escape sequences, other control characters and those that turn the direction of writing
    show as they are written in Python.

    Examples
    --------
    >>> print(printable("η = 0.1\nred \x1b[31m"))
    η = 0.1 red \x1b[31m
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else " " if character.isspace() else ascii(character)[1:-1]
        for character in text
    )


def wants_traceback() -> bool:
    """Whether the user asked for tracebacks: CFLOW_TRACEBACK=1 or HYDRA_FULL_ERROR=1."""
    return any(os.environ.get(name) == "1" for name in ("CFLOW_TRACEBACK", "HYDRA_FULL_ERROR"))


def attempt(work: Callable[[], _T], what: Any) -> tuple[_T | None, str | None]:
    """What ``work`` returns, and None; or None and a sentence on ``what``: one bad file must not hide the good ones."""
    try:
        return work(), None
    except UserError as error:
        return None, str(error)
    except Exception as error:
        if wants_traceback():
            raise
        return None, f"cannot read {what}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``" (did you mean X?)"``, or nothing when no known word is close."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    same_end = [name for name in known if name.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]]
    best = close or same_end
    return f" (did you mean {best[0]}?)" if best else ""


def is_loss(error: BaseException) -> bool:
    """Whether an error says that another program of the run is gone."""
    # Of several types: what has failed shows wherever a number is looked at.
    return not isinstance(error, UserError) and any(word in str(error) for word in _BROKEN)


def one_sentence(error: BaseException) -> str:
    """What to tell a user of an error that was not foreseen."""
    text = " ".join(str(error).split())
    if "RESOURCE_EXHAUSTED" in text or isinstance(error, MemoryError):
        return "the device ran out of memory; try data.microbatch=100, a smaller data.n or a smaller model"
    if isinstance(error, UserError):
        return text
    if is_loss(error):
        return LOST
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
