"""A table on the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from cflow_cli.report.definitions import Quantity
from cflow_cli.report.table import Table, cells, show, told

# What a narrow terminal can do without, first things first; how well the flow did is kept.
_LEAST = (
    "final_loss_stable",
    "final_loss_central",
    "s_eff",
    "distance_stable",
    "distance_central",
    "wall_seconds",
    "steps",
    "seed",
    "final_loss",
    "num_critical",
    "loss_error_stable",
    "edge_step",
    "data",
    "model",
)
_STYLES = {"done": "green", "running": "cyan", "interrupted": "yellow"}


def print_table(table: Table, console: Console) -> None:
    """Print a table so that it fits the width of the terminal.

    Up to three runs stand side by side, one line per quantity. More are one line each; columns that
    do not fit are left out, the least telling first, and named below.

    Parameters
    ----------
    table
        From :func:`cflow_cli.report.table.build`.
    console
        Where to print.
    """
    texts = cells(table)
    if len(table.rows) <= 3:
        dropped: list[Quantity] = []
        console.print(_standing(table, texts))
    else:
        lying, dropped = _lying(table, texts, console.width)
        console.print(lying)
    if table.shared:
        shared = ", ".join(f"{heading} {show(value, 'number')}" for heading, value in table.shared)
        console.print(Text(f"in all runs: {shared}"))
    single = len(table.rows) == 1 and len({run for run, _ in table.notes}) == 1
    for line in [note for _, note in table.notes] if single else told(table):
        console.print(Text(line, style="yellow"), soft_wrap=True)
    if dropped:
        names = ", ".join(quantity.name for quantity in dropped)
        console.print(Text(f"not shown for want of width: {names} (--metric, --format csv)", style="dim"))


def _standing(table: Table, texts: list[list[str]]) -> RichTable:
    out = RichTable(box=box.SIMPLE, show_header=len(texts) > 1, pad_edge=False)
    first = table.columns[0]
    out.add_column(first.heading, no_wrap=True)
    for row in texts:
        out.add_column(Text(row[0]), justify="left", overflow="fold")
    for place, column in enumerate(table.columns):
        if place or len(texts) == 1:
            out.add_row(column.heading, *(_text(row[place], column) for row in texts))
    return out


def _lying(table: Table, texts: list[list[str]], width: int) -> tuple[RichTable, list[Quantity]]:
    headings = [column.heading.replace(" ", "\n") for column in table.columns]
    widths = [
        max(len(piece) for piece in (*heading.split("\n"), *(row[place] for row in texts)))
        for place, heading in enumerate(headings)
    ]
    names = [column.name for column in table.columns]
    order = [names.index(name) for name in _LEAST if name in names]
    order += [
        place for place in reversed(range(1, len(names))) if place not in order and names[place] != "status"
    ]
    kept = list(range(len(names)))
    while order and sum(widths[place] + 3 for place in kept) > width:
        kept.remove(order.pop(0))
    out = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for place in kept:
        column = table.columns[place]
        out.add_column(
            headings[place],
            justify="left" if column.kind == "text" else "right",
            no_wrap=place != 0,
            overflow="fold",
            vertical="bottom" if place else "top",
        )
    for row in texts:
        out.add_row(*(_text(row[place], table.columns[place]) for place in kept))
    return out, [column for place, column in enumerate(table.columns) if place not in kept]


def _text(text: str, column: Quantity) -> Text:
    return Text(text, style=_STYLES.get(text, "red") if column.name == "status" else "")
