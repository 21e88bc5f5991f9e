"""Sharing the GPUs of a machine among the runs of a sweep that it computes side by side.

Which GPUs there are is asked of the environment and of NVIDIA's driver: JAX would have to start their runtime for it,
after which no choice is left. Without JAX.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

VISIBLE, FRACTION = "CUDA_VISIBLE_DEVICES", "XLA_PYTHON_CLIENT_MEM_FRACTION"
# What says how JAX takes memory: where the user has said it, it stays.
_OF_MEMORY = (FRACTION, "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_ALLOCATOR")
# Of a GPU's memory, all runs on it together; the rest is for the libraries, which each run loads.
_MEMORY = 0.9

_held: dict[Path, tuple[int, IO[str]]] = {}


def visible(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs that a program with this environment may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    Parameters
    ----------
    environment
        As ``os.environ``.
    """
    if VISIBLE in environment:
        named = [name.strip() for name in environment[VISIBLE].split(",")]
        # CUDA takes those before the first that is no device.
        ends = [place for place, name in enumerate(named) if name in ("", "-1")]
        return tuple(named[: ends[0]] if ends else named)
    listed = Path("/proc/driver/nvidia/gpus")
    count = 0
    with contextlib.suppress(OSError):
        count = sum(1 for _ in listed.iterdir())
    if not count:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            told = subprocess.run(
                ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True
            )
            count = sum(line.startswith("GPU ") for line in told.stdout.splitlines())
    return tuple(map(str, range(count)))


def share(place: int, at_once: int, environment: Mapping[str, str], gpus: Sequence[str]) -> dict[str, str]:
    """What one of several runs is told of the GPUs: which is its own, and what part of the memory.

    Parameters
    ----------
    place
        Of the run among those that are computed at the same time, from 0.
    at_once
        How many these are.
    environment
        What it has been told already, which stays where it is about memory.
    gpus
        As from :func:`visible`.

    Examples
    --------
    >>> share(2, 4, {}, ["0", "1"])
    {'CUDA_VISIBLE_DEVICES': '0', 'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.45'}
    """
    if not gpus:
        return {}
    told = {VISIBLE: gpus[place % len(gpus)]}
    if not any(name in environment for name in _OF_MEMORY):
        told[FRACTION] = f"{_MEMORY / math.ceil(at_once / len(gpus)):.2g}"
    return told


def may_share(device: str, devices: int | None) -> bool:
    """Whether a run with these settings leaves it to others which GPU it computes on."""
    return device in ("auto", "gpu", "cuda") and devices == 1


def take_share(folder: Path, at_once: int) -> None:
    """Have this program, which computes one run of a sweep after the other, see the GPU that is its own.

    Parameters
    ----------
    folder
        Of the sweep, in which the programs number themselves.
    at_once
        How many there are.
    """
    if folder in _held:
        return
    gpus = visible(os.environ)
    if gpus:
        _held[folder] = _numbered(folder / ".gpus", range(at_once))
        os.environ.update(share(_held[folder][0], at_once, os.environ, gpus))


def _numbered(folder: Path, places: Iterable[int]) -> tuple[int, IO[str]]:
    """The first place that no other program holds; the system frees it however this one ends."""
    folder.mkdir(exist_ok=True)
    place = 0
    for place in places:
        file = (folder / str(place)).open("a", encoding="utf-8")
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return place, file
        file.close()
    return place, (folder / str(place)).open("a", encoding="utf-8")
