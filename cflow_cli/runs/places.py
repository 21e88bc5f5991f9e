"""What ``RUN[@PROCESS[@STEP]]`` on a command line names."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cflow_cli.errors import UserError


class Place(NamedTuple):
    """Where a run has come to; None where nothing is said.

    Parameters
    ----------
    folder
        Of the run; whether it exists is for whoever reads it to find out.
    process
        ``discrete`` or a flow.
    step
        Of a checkpoint.
    """

    folder: Path
    process: str | None = None
    step: int | None = None


def parse(text: str) -> Place:
    """Take ``RUN``, ``RUN@PROCESS`` or ``RUN@PROCESS@STEP`` apart.

    Raises
    ------
    UserError
        If what follows the folder is no process and step.
    """
    words = text.split("@")
    # A folder may have the sign in its name.
    for count in range(len(words), 0, -1):
        folder = Path("@".join(words[:count])).expanduser()
        if folder.is_dir():
            break
    rest = words[count:]
    if len(rest) > 2 or any(not word for word in rest) or (len(rest) == 2 and not rest[1].isdecimal()):
        raise UserError(f"{text}: after the folder of a run come a process and a step, as in RUN@central@200")
    return Place(folder, rest[0] if rest else None, int(rest[1]) if len(rest) == 2 else None)
