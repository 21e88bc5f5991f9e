"""Stands between a program's error output and the terminal, and tells in a sentence that XLA has ended the program.

Where another program of a run is gone, XLA aborts this one with a page about its own insides, and asks nobody. So the
error output goes through a program of its own, this file, which outlives it. Standard library only.
"""

from __future__ import annotations

import signal
import sys
from typing import IO

# How XLA's messages begin: on what its service that knows all programs has noticed, and the last one.
_NOTICED, _FATAL = b"coordination_service", b"JAX distributed service detected fatal errors"
# What stands in the last one where the programs have not come together.
_APART = b"RegisterTask"
# Lines of the first that are held back until it is known whether the last one follows.
_HELD = 12


def pass_on(lines: IO[bytes], out: IO[bytes], lost: str, apart: str) -> None:
    """Pass lines on, but the message of an abort, for which a sentence is told unless it has been.

    Parameters
    ----------
    lines, out
        What the program writes, and where it goes.
    lost, apart
        Sentences: that another program is gone, and that there never was one.
    """
    held: list[bytes] = []
    told = fatal = never_met = False
    for line in lines:
        if lost.encode() in line:
            told = True
            out.write(line)
            out.flush()
            continue
        fatal |= _FATAL in line
        never_met |= fatal and _APART in line
        if fatal:
            continue
        if held or _NOTICED in line:
            held.append(line)
        else:
            out.write(line)
        if len(held) > _HELD:
            out.writelines(held)
            held.clear()
        out.flush()
    if not fatal and not told:
        out.writelines(held)
    elif not told:
        out.write(f"error: {apart if never_met else lost}\n".encode())
    out.flush()


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # it ends when the program does
    pass_on(sys.stdin.buffer, sys.stderr.buffer, *sys.argv[1:3])
