"""Two runs side by side: settings that differ, results, and where their trajectories part."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from cflow_cli.report import definitions
from cflow_cli.report.overview import columns_for, compare_configs
from cflow_cli.report.summary import Summary
from cflow_cli.report.tables import Column, Table, format_value
from cflow_cli.storage import Run

VISIBLE = 0.01
"""Relative difference of two losses from which their trajectories have visibly parted."""


def differing_settings(rows: Sequence[Summary]) -> Table:
    """Settings in which runs differ, a row per key."""
    keys, _ = compare_configs(rows)
    return _side_by_side(rows, [[key, *(str(row.config.get(key, "–")) for row in rows)] for key in keys])


def results(rows: Sequence[Summary]) -> Table:
    """Quantities that any of the runs has, a row each."""
    return _side_by_side(
        rows,
        [
            [quantity.heading, *(format_value(row.get(quantity.name), quantity.kind) for row in rows)]
            for quantity in columns_for(rows)
            if quantity.name != "run" and any(row.get(quantity.name) is not None for row in rows)
        ],
    )


def _side_by_side(rows: Sequence[Summary], texts: Sequence[Sequence[str]]) -> Table:
    headings = ["", *(str(row.get("run")) for row in rows)]
    return Table([Column(heading, heading, "text", wraps=True) for heading in headings], texts)


def partings(runs: Sequence[Run]) -> Table:
    """First steps at which the losses of two runs differ, a row per process that both have."""
    metrics = [run.table("metrics", ("step", "process", "loss")) for run in runs]
    ours, theirs = (dict.fromkeys(str(process) for process in of["process"].unique()) for of in metrics)
    rows = []
    for process in filter(theirs.__contains__, ours):
        at_all, visibly, common = first_difference(
            *(definitions.series(of, process, "loss") for of in metrics)
        )
        if not common:
            rows.append([process, "no common step", ""])
        elif at_all is None:
            steps = f"all {common} common steps" if common > 1 else "the one common step"
            rows.append([process, f"the same at {steps}", ""])
        else:
            rows.append([process, str(at_all), "never" if visibly is None else str(visibly)])
    headings = ["", "at all", f"by {VISIBLE:.0%}"]
    return Table([Column(heading, heading, "text", wraps=True) for heading in headings], rows)


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
