"""What trackers of experiments are given at the end of a run."""

from __future__ import annotations

import math
from pathlib import Path

from cflow_cli import storage
from cflow_cli.loggers.base import Ending


def describe(folder: Path, status: str) -> Ending:
    """Draw the panel of a run into its folder, and take its row of the report.

    Parameters
    ----------
    folder
        A run folder with rows.
    status
        How the run ended.

    Raises
    ------
    UserError
        When there is nothing to draw.
    """
    # Pandas and matplotlib, for which commands that start runs need not wait.
    from cflow_cli.report import plot, summary

    run = storage.read_run(folder)
    row = summary.summarise(run).values
    known = {
        name: value
        for name, value in row.items()
        if isinstance(value, str) or (isinstance(value, int | float) and math.isfinite(value))
    }
    panel = folder / "panel.png"
    plot.save_panel(run, panel)
    return Ending(status, known, panel)
