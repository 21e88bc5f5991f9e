"""Gradient flow conserves the imbalance of the factors; the oscillation at the edge breaks that law by another."""

from functools import cache

import numpy as np

from cflow_cli.datasets.completion import completion
from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import flow, panels, raw
from cflow_cli.figures.measuring import since
from cflow_cli.models.balanced import balanced_sharpness

CAPTION = """
Gradient descent on a product of three matrices at 1.15 times the largest stable learning rate. Change of the imbalance
D_j = W_{j+1}ᵀW_{j+1} − W_jW_jᵀ since the start (a): at the midpoints (wide), along the central flow (black), along the
stable flow (dashed), which conserves it, and the integral of 4 E[δ_{j+1}ᵀδ_{j+1} − δ_jδ_jᵀ] over the oscillation δ of
the central flow (dotted). Distance of the flows' D from that of the midpoints, as a part of its change (b).
"""
TITLES = ("change of the imbalance, ‖D − D(0)‖", "error of D, as a part of the change")
KEPT = Check("change of D along the stable flow over that of gradient descent, since the start", high=1e-2)
FOLLOWED = Check("error of D of the central flow as a part of the change, worst since the edge", high=0.25)
LAW = Check("integral of 4 E[δᵀδ − δδᵀ] over the change of D along the central flow since the edge", 0.9, 1.1)
DEPTH, FACTOR = 3, 1.15
SMALL = {"rows": 20, "columns": 20, "rank": 2, "n": 200}


@cache
def rate():
    """The learning rate: that of dmf-edge's run with the central flow."""
    return f"lr={FACTOR * 2 / balanced_sharpness(completion(**SMALL), DEPTH):.5g}"


def runs(size):
    """One run with all flows."""
    return {"flow_run": ["experiment=dmf_flow", rate()]}


def entries(run, process, kind="imbalance_entry"):
    """D, a row per measurement."""
    return run.spectrum(process, kind).dropna(how="all")


def change(table):
    """‖D − D(0)‖ against step."""
    return (table - table.iloc[0]).pow(2).sum(axis=1) ** 0.5


def errors(run, process):
    """‖D_flow − D_midpoint‖/‖D_midpoint − D(0)‖ against step."""
    start = entries(run, "discrete").iloc[0]
    real, own = entries(run, "midpoint"), entries(run, process)
    both = real.index.intersection(own.index)
    off = (own.loc[both] - real.loc[both]).pow(2).sum(axis=1) ** 0.5
    return off / (real.loc[both] - start).pow(2).sum(axis=1) ** 0.5


def integral(run):
    """∫ 4 E[…] dt since the start, a row per measurement: four times the predicted average of D less D."""
    own = entries(run, "central")
    rates = 4 * (entries(run, "central", "predicted_imbalance_entry") - own)
    steps = np.diff(own.index)[:, None]
    moved = np.cumsum(steps * (rates.to_numpy()[1:] + rates.to_numpy()[:-1]) / 2, axis=0)
    whole = own * 0.0
    whole.iloc[1:] = moved
    return whole


def draw(flow_run):
    """Draw the change of D and the errors of the flows."""
    figure, axes = panels(1, 2, titles=TITLES, height=2.4)
    real = entries(flow_run, "midpoint")
    start = entries(flow_run, "discrete").iloc[0]
    raw(
        axes[0],
        (real - start).pow(2).sum(axis=1) ** 0.5,
        "midpoint",
        linewidth=2.6,
        alpha=0.6,
        label="midpoints",
    )
    for process in ("stable", "central"):
        flow(axes[0], change(entries(flow_run, process)), process, label=f"{process} flow")
        flow(axes[1], errors(flow_run, process), process)
    law = change(integral(flow_run))
    axes[0].plot(law.index, law, color="#D55E00", linewidth=1.4, linestyle=":", label="∫ 4 E[…] dt")
    axes[0].legend()
    axes[1].set_ylim(0, 1.1)
    return figure


def claims(flow_run):
    """The stable flow conserves D, the central flow moves it as gradient descent does, and by the law."""
    edge = max(flow_run.edge, 40)
    start = entries(flow_run, "discrete").iloc[0]
    kept, real = (
        ((entries(flow_run, process).iloc[-1] - start) ** 2).sum() ** 0.5
        for process in ("stable", "midpoint")
    )
    yield KEPT(kept / real)
    worst = errors(flow_run, "central")
    yield FOLLOWED(since(worst, edge).max())
    own, law = (since(table, edge) for table in (entries(flow_run, "central"), integral(flow_run)))
    moved, told = (table.iloc[-1] - table.iloc[0] for table in (own, law))
    yield LAW(float(told @ moved / (moved @ moved)))
