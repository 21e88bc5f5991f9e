"""Bursts: how far S_eff passes 2 before an oscillation has grown enough to bring it back.

Slowly enough and without a momentum it hardly does, which is what the central flow takes for granted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cflow_cli.report import definitions
from cflow_cli.report.smoothing import WINDOW
from cflow_cli.storage import Run

RISE = 1.7
"""S_eff from which its rise to the edge is measured."""


def of(run: Run, metrics: pd.DataFrame, edge: int | None, flows: Sequence[str]) -> tuple[float, list[str]]:
    """The burst number of a run, NaN where it is not known, and what is to be said of it.

    Parameters
    ----------
    run
        For what its manifest has on oscillations.
    metrics
        Its metrics table.
    edge
        Step of reaching the edge.
    flows
        Those of the run.
    """
    found = run.manifest.get("oscillation")
    if not found:
        return float("nan"), []
    number = burst_number(metrics, edge, found["growth"], found["noise"])
    if not number > definitions.BURSTS or found["growth"] <= 1 or found["second_moments"]:
        return number, []
    better = "" if "two_phase" in flows else ", with 'processes=[discrete,midpoint,stable,central,two_phase]'"
    return number, [
        f"with this momentum S_eff passes 2 in bursts (burst number {number:.2g}, above {definitions.BURSTS}), of "
        f"which the central flow knows nothing: it is not to be believed, the two_phase flow has them{better}"
    ]


def burst_number(metrics: pd.DataFrame, edge: int | None, growth: float, noise: float) -> float:
    """Logarithm of how much an oscillation grows per step when S_eff has passed 2 as far as it does at first.

    B = √(2 r κ ln(σ/ε)): S_eff rises by r per step, an oscillation grows by κ per step and unit of S_eff above 2, and
    from ε to the σ at which it holds S_eff it takes until S_eff has risen to 2 + B/κ. r is the mean rise of the central
    flow's S_eff from 1.7 to the edge, σ² its mean tr Σ over the first steps there.

    Parameters
    ----------
    metrics
        The metrics table of a run.
    edge
        Step of reaching the edge.
    growth, noise
        κ and ε, as the manifest has them.

    Returns
    -------
    float
        NaN without a central flow that reaches the edge, or where it begins above 1.7.
    """
    sharpness, variance = (
        definitions.series(metrics, "central", name) for name in ("effective_sharpness", "sigma_trace")
    )
    rising = sharpness[sharpness < RISE]
    rising = rising[rising.index < (0 if edge is None else edge)]
    if edge is None or rising.empty:
        return float("nan")
    last = int(rising.index[-1])
    rise = (sharpness[edge] - sharpness[last]) / (edge - last)
    spread = float(variance[(variance.index >= edge) & (variance.index < edge + WINDOW // 2)].mean())
    if not spread > noise**2:
        return float("nan")
    return float(np.sqrt(max(rise, 0) * growth * np.log(spread / noise**2)))
