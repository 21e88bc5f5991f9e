"""The programs that compute one run together, each with devices of its own, and what the first of them decides for all.

Each takes every step with its share of the examples. The first *leads*: folder, terminal, loggers, clock and report are
its alone, and the others hear from it what they cannot know, or must not each know for themselves. Almost always there
is one program, which leads. Without JAX: :mod:`cflow_cli.runs.meeting` brings several together.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from cflow_cli.errors import UserError, one_sentence

_T = TypeVar("_T")


class Told(UserError):
    """What went wrong where the run is led: it is told there, and ends all others without a word."""


@dataclass(frozen=True)
class Group:
    """The programs of a run.

    Parameters
    ----------
    count, index
        How many they are, and which of them this is; the first, 0, leads.
    hear
        Takes what the first program has to say, and gives it; the others give nothing.
    any_of
        Switches of each program -> which of them any program has on.
    """

    count: int = 1
    index: int = 0
    hear: Callable[[bytes], bytes] = lambda said: said
    any_of: Callable[[tuple[bool, ...]], tuple[bool, ...]] = lambda switches: switches


_group = Group()


def join(group: Group) -> None:
    """Be one of several from now on."""
    global _group
    _group = group


def count() -> int:
    """How many programs compute the run."""
    return _group.count


def leads() -> bool:
    """Whether this is the one that leads."""
    return _group.index == 0


def decide(function: Callable[[], _T]) -> _T:
    """What ``function`` returns where the run is led, for all; the others do not call it.

    Parameters
    ----------
    function
        Its result must go through pickle where there are several programs.

    Raises
    ------
    Exception
        What it raised, in the one that leads; Told with a sentence on it in the others.
    """
    if _group.count == 1:
        return function()
    if not leads():
        good, value = pickle.loads(_group.hear(b""))
        if not good:
            raise Told(value)
        return value
    try:
        value = function()
    except Exception as error:
        _group.hear(pickle.dumps((False, one_sentence(error))))
        raise
    _group.hear(pickle.dumps((True, value)))
    return value


def any_of(*switches: bool) -> tuple[bool, ...]:
    """Which of these are on in any of the programs."""
    return _group.any_of(switches)


def leave(status: int) -> NoReturn:
    """End this program at once: others may be gone for which an orderly end would wait."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
