"""Where a run begins that branches off another one; it keeps a copy, for the other one may go on, or away."""

from __future__ import annotations

from pathlib import Path

from cflow_cli.config.settings import InitSettings
from cflow_cli.engine.options import Discrete
from cflow_cli.engine.snapshot import Start, branch
from cflow_cli.errors import UserError
from cflow_cli.storage import checkpoints, read_run


def point(init: InitSettings, folder: Path | None) -> tuple[Start | None, tuple[str, ...]]:
    """The point another run has reached, or had when this run began; None for a run that begins by itself.

    Parameters
    ----------
    init
        Which run, process and step.
    folder
        Of this run, where it may have begun.

    Returns
    -------
    start
        The point.
    notes
        Sentences on what could not be read on the way.

    Raises
    ------
    UserError
        If there is no such point.
    """
    if init.source is None:
        return None, ()
    notes: list[str] = []
    if folder is not None and (folder / checkpoints.START).exists():
        try:
            return branch(checkpoints.load(folder / checkpoints.START).arrays, Discrete.name), ()
        except UserError as error:
            notes.append(f"{error}; taking it from {init.source} again")
    read_run(init.source)
    found = checkpoints.at_step(init.source, init.step)
    try:
        return branch(found.arrays, init.process), (*notes, *found.notes)
    except UserError as error:
        raise UserError(f"init.process={init.process}: in {found.path} {error}") from error


def keep(start: Start | None, init: InitSettings, folder: Path) -> None:
    """Keep the point in the run's own folder."""
    if start is not None:
        checkpoints.write(folder / checkpoints.START, {"step": 0, "from": str(init.source)}, start.arrays())
