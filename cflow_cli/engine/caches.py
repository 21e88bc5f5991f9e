"""Compiled programs that a process can hold."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Hashable
from pathlib import Path

import jax

_last: Hashable = None


def make_room() -> None:
    """Forget compiled programs before the process has no memory maps left for another.

    A simulation's take some two thousand on a CPU, and Linux grants a process 65,530: a sweep of forty runs in one
    process would crash. On other systems there is no such limit to look up.
    """
    with contextlib.suppress(OSError, ValueError):
        most = int(Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii"))
        with Path("/proc/self/maps").open("rb") as maps:
            crowded = sum(1 for _ in maps) > most / 2
        if crowded:
            forget()


def keep_shared(form: Hashable) -> None:
    """Forget the compiled programs of runs before, unless a run of this form steps them, too.

    So runs of one form share theirs, however many there are in a row, and of others nothing is left.

    Parameters
    ----------
    form
        What tells the programs of one run from those of another, as
        :attr:`~cflow_cli.engine.simulation.Simulation.form`.
    """
    global _last
    if form != _last:
        forget()
    _last = form


def forget() -> None:
    """Free all compiled programs, and give their memory back to the system.

    glibc keeps what is freed: after ten small runs in one process 1.3 GB, of which 0.4 are in use.
    """
    jax.clear_caches()
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
