"""``cflow compare``: two runs side by side, and where their trajectories part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cflow_cli.commandline import Parser
from cflow_cli.report import definitions

if TYPE_CHECKING:
    import pandas as pd

VISIBLE = 0.01
"""Relative difference of two losses from which their trajectories have visibly parted."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cflow compare``.

    Parameters
    ----------
    argv
        Arguments after ``compare``; by default those of the process.

    Returns
    -------
    int
        Exit status.

    Raises
    ------
    UserError
        When one of the two is not a run or cannot be read.
    """
    parser = Parser(
        prog="cflow compare",
        description="Two runs side by side: settings that differ, results, and the first step at which they differ.",
    )
    for name in ("first", "second"):
        parser.add_argument(name, metavar="RUN", type=Path, help="a run folder")
    arguments = parser.parse_args(argv)

    import sys

    from rich import box
    from rich.console import Console
    from rich.table import Table

    from cflow_cli.report import summary, table
    from cflow_cli.storage import read_run

    runs = [read_run(arguments.first), read_run(arguments.second)]
    names = summary.names_of([run.folder for run in runs])
    rows = [summary.summarise(run, name) for run, name in zip(runs, names)]
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)

    def show(title: str, heads: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
        console.print(title, style="bold")
        out = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for head in heads:
            out.add_column(head, overflow="fold")
        for line in lines:
            # What is the same steps back behind what differs.
            out.add_row(*line, style="dim" if len(line) > 2 and line[1] == line[2] else None)
        console.print(out)

    differing, _ = table.compare_configs(rows)
    if differing:
        texts = [[key, *(str(row.config.get(key, "–")) for row in rows)] for key in differing]
        show("settings that differ", ["", *names], texts)
    else:
        console.print("all settings are the same")
    results = [
        [quantity.heading, *(table.show(row.get(quantity.name), quantity.kind) for row in rows)]
        for quantity in table.columns_for(rows)
        if quantity.name != "run" and any(row.get(quantity.name) is not None for row in rows)
    ]
    show("results", ["", *names], results)
    metrics = [run.table("metrics", ("step", "process", "loss")) for run in runs]
    present = [dict.fromkeys(str(process) for process in table_["process"].unique()) for table_ in metrics]
    lines = []
    for process in present[0]:
        if process in present[1]:
            losses = [definitions.series(table_, process, "loss") for table_ in metrics]
            any_, visible, common = first_difference(*losses)
            same = (
                f"the same at all {common} common steps" if common > 1 else "the same at the one common step"
            )
            if not common:
                lines.append([process, "no common step", ""])
            elif any_ is None:
                lines.append([process, same, ""])
            else:
                lines.append([process, str(any_), "never" if visible is None else str(visible)])
    if lines:
        show("first step at which the losses differ", ["", "at all", f"by {VISIBLE:.0%}"], lines)
    else:
        console.print("the runs have no process in common")
    for row in rows:
        for note in row.notes:
            console.print(f"{row.get('run')}: {note}", style="yellow", soft_wrap=True)
    return 0


def first_difference(one: pd.Series, two: pd.Series) -> tuple[int | None, int | None, int]:
    """Find where two trajectories part.

    Parameters
    ----------
    one, two
        Loss against step.

    Returns
    -------
    at_all
        First common step at which they are not equal to the last bit; None if there is none.
    visibly
        First at which they differ by 1 % of the smaller one.
    common
        Number of common steps.

    Examples
    --------
    >>> import pandas as pd
    >>> first_difference(pd.Series([1.0, 2.0, 4.0]), pd.Series([1.0, 2.001, 5.0]))
    (1, 2, 3)
    """
    steps = one.index.intersection(two.index)
    one, two = one[steps], two[steps]
    unequal = steps[(one != two).to_numpy()]
    scale = one.abs().where(one.abs() < two.abs(), two.abs())
    visible = steps[((one - two).abs() > VISIBLE * scale).to_numpy()]
    return (
        int(unequal[0]) if len(unequal) else None,
        int(visible[0]) if len(visible) else None,
        len(steps),
    )
