"""Where a run begins that branches off another one, or off a curve between two; it keeps a copy of the point."""

from __future__ import annotations

from pathlib import Path

from cflow_cli.config.settings import InitSettings
from cflow_cli.engine.options import Discrete
from cflow_cli.engine.snapshot import Start, branch
from cflow_cli.errors import UserError
from cflow_cli.paths import curves
from cflow_cli.storage import checkpoints, paths, read_run


def point(init: InitSettings, folder: Path | None) -> tuple[Start | None, tuple[str, ...]]:
    """The point another run has reached, or had when this run began; None for a run that begins by itself.

    Parameters
    ----------
    init
        Which run, process and step; or which path, curve and t.
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
    if paths.is_path(init.source):
        return _on_curve(init.source, init), tuple(notes)
    if init.t is not None:
        raise UserError(f"init.t={init.t:g} is for a folder of cflow path, which {init.source} is not")
    read_run(init.source)
    found = checkpoints.at_step(init.source, init.step)
    try:
        return branch(found.arrays, init.process), (*notes, *found.notes)
    except UserError as error:
        raise UserError(f"init.process={init.process}: in {found.path} {error}") from error


def _on_curve(folder: Path, init: InitSettings) -> Start:
    """The weights of a point of a curve, for an optimizer that begins anew."""
    found = paths.read_curves(folder)
    alone = len(found) == 1 and init.process == Discrete.name  # the default, where there is nothing to choose
    kind = next(iter(found)) if alone else init.process
    if kind not in found or init.t is None or init.step is not None:
        raise UserError(
            f"{folder} is a folder of cflow path with the curves {', '.join(found)}; a run starts from a point of one, "
            f"as in init.process={next(iter(found), 'line')} init.t=0.5, without init.step"
        )
    weights = curves.at(kind, found[kind], init.t)
    return Start(weights, weights, {})


def keep(start: Start | None, init: InitSettings, folder: Path) -> None:
    """Keep the point in the run's own folder."""
    if start is not None:
        checkpoints.write(folder / checkpoints.START, {"step": 0, "from": str(init.source)}, start.arrays())
