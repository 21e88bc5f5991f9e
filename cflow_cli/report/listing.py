"""What ``cflow list`` says: how each run stands, how far it is and how long it will take; loads no pandas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cflow_cli import clock
from cflow_cli.errors import UserError, attempt
from cflow_cli.report.tables import Column, Table
from cflow_cli.runs import sweeps
from cflow_cli.runs.sweeps import Cell

_RUN = Column("run", "run", "text", "path of the run's folder", wraps=True)
_STATUS = Column("status", "status", "text", f"one of {', '.join(sweeps.STATUSES)}")
_WHAT = Column(
    "what", "what", "text", "the values of a sweep, else the choices of the run; its #tags", wraps=True
)
_NOTE = Column("note", "note", "text", "why it failed, since when there is no news of it, …", wraps=True)

_COLUMNS = (
    _RUN,
    _STATUS,
    Column("step", "step", "count", "steps taken"),
    Column("steps", "steps", "count", "steps wanted"),
    Column("age_seconds", "age", "seconds", "since it began"),
    Column("left_seconds", "left", "seconds", "what a running one will still take at the pace so far"),
    _WHAT,
    _NOTE,
)
"""For a program: as in :class:`Row`."""

_FOR_A_READER = (
    _RUN,
    _STATUS,
    Column("progress", "progress", "number"),
    Column("age", "age", "number"),
    Column("left", "left", "number"),
    _WHAT,
    _NOTE,
)


@dataclass(frozen=True)
class Row:
    """One run, or one cell of a sweep.

    Parameters
    ----------
    run
        Path of the run's folder.
    status
        One of :data:`cflow_cli.runs.sweeps.STATUSES`.
    step, steps
        Steps taken, and wanted.
    age_seconds
        Since it began.
    left_seconds
        What it will still take at the pace so far; of a running one only.
    what
        What it is: the values of a sweep, else its choices; and its tags.
    note
        Why it failed, since when there is no news of it, …
    """

    run: str
    status: str
    step: int | None
    steps: int | None
    age_seconds: float | None
    left_seconds: float | None
    what: str
    note: str


def cells(paths: Sequence[Path]) -> list[Cell]:
    """How every run at or below some paths stands, by the manifests alone; in the order of its folders.

    Parameters
    ----------
    paths
        Runs, sweeps, or folders that hold them.

    Raises
    ------
    UserError
        When a path does not exist.
    """
    found: list[Cell] = []
    for path in paths:
        if not path.is_dir():
            raise UserError(
                f"{path} is not an existing folder; give a run, a sweep or a folder that holds some"
            )
        found += sweeps.standing(path)
    return found


def list_runs(paths: Sequence[Path]) -> list[Row]:
    """List the runs at or below some paths; see :func:`cells`."""
    rows = []
    for cell in cells(paths):
        row, why = attempt(lambda: _to_row(cell), cell.folder)  # noqa: B023
        rows.append(row or Row(str(cell.folder), "failed", None, None, None, None, cell.point, why or ""))
    return rows


def to_table(rows: Sequence[Row], *, complete: bool) -> Table:
    """Arrange the rows as a table.

    Parameters
    ----------
    rows
        From :func:`list_runs`.
    complete
        Every figure by itself, for a program; otherwise progress and times in words, for a reader.
    """
    if complete:
        return Table(_COLUMNS, [list(vars(row).values()) for row in rows])
    texts = [
        [
            row.run,
            row.status,
            _format_progress(row),
            _format_time(row.age_seconds),
            _format_time(row.left_seconds),
            row.what,
            row.note,
        ]
        for row in rows
    ]
    return Table(_FOR_A_READER, texts)


def _to_row(cell: sweeps.Cell) -> Row:
    manifest = cell.manifest
    step, steps = manifest.get("step"), manifest.get("steps")
    age = clock.seconds_since(manifest.get("started")) if manifest.get("started") else None
    left = None
    if cell.status == "running" and step and steps:
        spent = manifest.get("wall_seconds") or 0.0
        left = max((steps - step) * spent / step - clock.seconds_since(manifest.get("updated")), 0.0)
    what = cell.point
    if not what and manifest:
        choices = manifest.get("choices") or {}
        words = [choices.get(group) for group in ("optimizer", "model", "data")]
        words.append(f"lr={manifest['lr']:g}" if "lr" in manifest else None)
        what = " ".join(str(word) for word in words if word)
    what = " ".join([what, *(f"#{tag}" for tag in manifest.get("tags") or ())]).strip()
    note = " ".join(cell.note.split())
    return Row(
        str(cell.folder),
        cell.status,
        step,
        steps,
        None if age is None else round(age),
        None if left is None else round(left, 1),
        what,
        note,
    )


def _format_progress(row: Row) -> str:
    if not row.steps:
        return ""
    step = row.step or 0
    return f"{step}/{row.steps} {100 * step // row.steps:3d} %"


def _format_time(seconds: float | None) -> str:
    return "" if seconds is None else clock.duration(seconds)
