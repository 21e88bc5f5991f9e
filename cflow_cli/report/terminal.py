"""Tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table as RichTable
from rich.text import Text

from cflow_cli.report.tables import Column, Table

# Into a file or a pipe a table is as wide as it needs to be.
_UNBOUNDED = 400

# What a narrow terminal can do without, first things first; how well the flow did is kept.
_DROPPED_FIRST = (
    "final_loss_stable",
    "final_loss_central",
    "s_eff",
    "distance_stable",
    "distance_central",
    "wall_seconds",
    "burst_number",
    "steps",
    "seed",
    "final_loss",
    "num_critical",
    "loss_error_stable",
    "edge_step",
    "data",
    "model",
)

_STYLES = {
    "done": "green",
    "running": "cyan",
    "pending": "blue",
    "interrupted": "yellow",
    "no_news": "yellow",
}
"""Colour of a status; any other is red."""


def make_console() -> Console:
    """Make a console on standard output, as wide as the terminal."""
    return Console(width=None if sys.stdout.isatty() else _UNBOUNDED, highlight=False)


@contextmanager
def following(names: Sequence[str], verb: str) -> Iterator[Iterator[str]]:
    """Show on standard error which of several things is under way: a bar on a terminal, else a line at the beginning.

    Parameters
    ----------
    names
        The things.
    verb
        What is done with each, as in "probing adam".

    Yields
    ------
    iterator of str
        The names, each as it is begun.
    """
    console = Console(stderr=True, highlight=False)
    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    if not console.is_terminal:
        console.print(f"{verb} {', '.join(names)}", markup=False, soft_wrap=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(verb, total=len(names))

        def begun() -> Iterator[str]:
            for done, name in enumerate(names):
                progress.update(task, completed=done, description=f"{verb} {name}")
                yield name

        yield begun()


def print_table(
    table: Table, console: Console, *, row_style: Callable[[Sequence[str]], str] | None = None
) -> None:
    """Print a table with all of its columns, one line per row; values of columns that wrap are folded to fit.

    Parameters
    ----------
    table
        What to print.
    console
        Where to print.
    row_style
        Style of a row by its texts.
    """
    console.print(_horizontal(table.columns, table.format_cells(), row_style=row_style))


def print_report(table: Table, console: Console) -> None:
    """Print a table of runs so that it fits the width of the terminal.

    Up to three runs stand side by side, one line per quantity. More are one line each; columns that
    do not fit are left out, the least telling first, and named below.

    Parameters
    ----------
    table
        From :func:`cflow_cli.report.overview.build`.
    console
        Where to print.
    """
    texts = table.format_cells()
    kept = list(range(len(table.columns)))
    if len(table.rows) <= 3:
        console.print(_vertical(table.columns, texts))
    else:
        headings = [column.heading.replace(" ", "\n") for column in table.columns]
        kept = _choose_columns(table.columns, headings, texts, console.width)
        rows = [[row[place] for place in kept] for row in texts]
        columns = [table.columns[place] for place in kept]
        console.print(_horizontal(columns, rows, [headings[place] for place in kept]))
    if table.shared:
        console.print(Text(f"in all runs: {table.shared_line()}"))
    notes = table.notes or ()
    single = len(table.rows) == 1 and len({run for run, _ in notes}) == 1
    for line in [note for _, note in notes] if single else table.note_lines():
        console.print(Text(line, style="yellow"), soft_wrap=True)
    dropped = [column.name for place, column in enumerate(table.columns) if place not in kept]
    if dropped:
        line = f"not shown for want of width: {', '.join(dropped)} (--metric, --format csv)"
        console.print(Text(line, style="dim"))


def _vertical(columns: Sequence[Column], texts: Sequence[Sequence[str]]) -> RichTable:
    """Lay out rows side by side, one line per column of the table."""
    out = RichTable(box=box.SIMPLE, show_header=len(texts) > 1, pad_edge=False)
    out.add_column(columns[0].heading, no_wrap=True)
    for row in texts:
        out.add_column(Text(row[0]), justify="left", overflow="fold")
    for place, column in enumerate(columns):
        if place or len(texts) == 1:
            out.add_row(column.heading, *(_styled(row[place], column) for row in texts))
    return out


def _horizontal(
    columns: Sequence[Column],
    texts: Sequence[Sequence[str]],
    headings: Sequence[str] | None = None,
    row_style: Callable[[Sequence[str]], str] | None = None,
) -> RichTable:
    """Lay out rows below each other."""
    out = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for column, heading in zip(columns, headings or [column.heading for column in columns], strict=True):
        out.add_column(
            Text(heading),
            justify="left" if column.kind == "text" else "right",
            no_wrap=not column.wraps,
            overflow="fold",
        )
    for row in texts:
        style = row_style(row) if row_style else None
        out.add_row(*(_styled(text, column) for text, column in zip(row, columns, strict=True)), style=style)
    return out


def _choose_columns(
    columns: Sequence[Column], headings: Sequence[str], texts: Sequence[Sequence[str]], width: int
) -> list[int]:
    """Places of the columns that fit a width; the first column and the status always stay."""
    widths = [
        max(len(piece) for piece in (*heading.split("\n"), *(row[place] for row in texts)))
        for place, heading in enumerate(headings)
    ]
    names = [column.name for column in columns]
    order = [names.index(name) for name in _DROPPED_FIRST if name in names]
    order += [
        place for place in reversed(range(1, len(names))) if place not in order and names[place] != "status"
    ]
    kept = list(range(len(names)))
    while order and sum(widths[place] + 3 for place in kept) > width:
        kept.remove(order.pop(0))
    return kept


def _styled(text: str, column: Column) -> Text:
    return Text(text, style=_STYLES.get(text, "red") if column.name == "status" else "")
