"""``cflow list``: which runs there are, how each stands, how far it is and how long it will take."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import clock, sweeps
from .commandline import Parser
from .errors import UserError

_FORMATS = ("table", "md", "csv", "json")
_COLUMNS = ("run", "status", "step", "steps", "age_seconds", "left_seconds", "what", "note")
_STYLES = {"done": "green", "running": "cyan", "pending": "blue", "interrupted": "yellow", "silent": "yellow"}


@dataclass(frozen=True)
class Row:
    """One line of the list.

    Parameters
    ----------
    run
        Path of the run's folder.
    status
        One of :data:`cflow_cli.sweeps.STATUSES`.
    step, steps
        Steps taken, and wanted.
    age_seconds
        Since it began.
    left_seconds
        What it will still take at the pace so far; of a running one only.
    what
        What it is: the values of a sweep, else its choices.
    note
        Why it failed, since when it is silent, …
    """

    run: str
    status: str
    step: int | None
    steps: int | None
    age_seconds: float | None
    left_seconds: float | None
    what: str
    note: str


def parser() -> Parser:
    """Build the parser of ``cflow list``."""
    out = Parser(
        prog="cflow list",
        description="List runs and the cells of sweeps, begun or not: status, progress, age, time left. "
        "Works while they run, also from another machine.",
    )
    out.add_argument("paths", metavar="PATH", nargs="*", type=Path, help="default: outputs")
    out.add_argument(
        "--status", metavar="A,B", default="", help=f"only these of {', '.join(sweeps.STATUSES)}"
    )
    out.add_argument("--format", choices=_FORMATS, default="table", help="default: a table for the terminal")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cflow list``.

    Parameters
    ----------
    argv
        Arguments after ``list``.

    Returns
    -------
    int
        Exit status.

    Raises
    ------
    UserError
        When a path does not exist, or a status is none.
    """
    arguments = parser().parse_args(argv)
    wanted = [word.strip() for word in arguments.status.split(",") if word.strip()]
    for word in wanted:
        if word not in sweeps.STATUSES:
            raise UserError(f"--status: no status {word!r}; there are {', '.join(sweeps.STATUSES)}")
    paths = [path.expanduser() for path in arguments.paths or [Path("outputs")]]
    rows = [row for row in find(paths) if not wanted or row.status in wanted]
    if arguments.format == "table":
        _print(rows)
    else:
        sys.stdout.write(_render(rows, arguments.format))
    return 0


def find(paths: Sequence[Path]) -> list[Row]:
    """List what is at or below some paths, in the order of its folders.

    Parameters
    ----------
    paths
        Runs, sweeps, or folders that hold them.

    Raises
    ------
    UserError
        When a path does not exist.
    """
    rows = []
    for path in paths:
        if not path.is_dir():
            raise UserError(
                f"{path} is not an existing folder; give a run, a sweep or a folder that holds some"
            )
        for folder, is_sweep in sweeps.walk(path):
            found = sweeps.cells(folder) if is_sweep else [sweeps.run_cell(folder)]
            rows += [_row(cell) for cell in found]
    return rows


def _row(cell: sweeps.Cell) -> Row:
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


def _print(rows: Sequence[Row]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 400, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    headings = ("run", "status", "progress", "age", "left", "what", "")
    for heading in headings:
        justify: Any = "right" if heading in ("progress", "age", "left") else "left"
        table.add_column(heading, justify=justify, overflow="fold", no_wrap=heading in ("status", "progress"))
    for row in rows:
        shown = [row.run, row.status, _progress(row), _time(row.age_seconds), _time(row.left_seconds)]
        texts = [Text(text) for text in (*shown, row.what, row.note)]
        texts[1].stylize(_STYLES.get(row.status, "red"))
        table.add_row(*texts)
    console.print(table if rows else "nothing here")


def _progress(row: Row) -> str:
    if not row.steps:
        return ""
    step = row.step or 0
    return f"{step}/{row.steps} {100 * step // row.steps:3d} %"


def _time(seconds: float | None) -> str:
    return "" if seconds is None else clock.duration(seconds)


def _render(rows: Sequence[Row], form: str) -> str:
    if form == "json":
        return json.dumps([vars(row) for row in rows], indent=2, ensure_ascii=False) + "\n"
    if form == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows([["" if v is None else v for v in vars(row).values()] for row in rows])
        return out.getvalue()
    lines = ["| run | status | progress | age | left | what | note |", "|---|---|---:|---:|---:|---|---|"]
    for row in rows:
        shown = [row.run, row.status, _progress(row), _time(row.age_seconds), _time(row.left_seconds)]
        lines.append(
            "| " + " | ".join(text.replace("|", "\\|") for text in (*shown, row.what, row.note)) + " |"
        )
    return "\n".join(lines) + "\n"
