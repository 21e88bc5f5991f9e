"""Scalar RMSProp at a larger learning rate goes through flatter regions, and faster."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import panels, with_flow
from cflow_cli.report import smoothing

CAPTION = """
Scalar RMSProp at two learning rates from the same weights: training loss at the iterates (a), sharpness (b)
and effective step size η/√ν (c) at their midpoints (thin), smoothed over 50 steps (wide) and the central
flow of each (black; for the loss its prediction). The larger η is kept from the sharp regions; there the edge
of stability lets the effective step be larger, and the loss falls faster.
"""
RATES = {"mini": (0.02, 0.04), "paper": (0.01, 0.02)}
TITLES = ("training loss", "sharpness λ_max(H)", "effective step size η/√ν")
LOSS = Check("training loss, 50-step mean at the end, larger over smaller η", high=0.95, paper=".105/.135")
SHARPNESS = Check("sharpness, 50-step mean at the end, larger over smaller η", high=0.95, paper="160/240")
STEP = Check("effective step size, 50-step mean at the end, larger over smaller η", low=1.05, paper="240/160")


def runs(size):
    """Part 2's run at two learning rates."""
    needed = {}
    for lr in RATES[size]:
        # At mini size the preset's own rate: its run is there for other figures.
        own = [] if (size, lr) == ("mini", 0.02) else [f"lr={lr:g}", "processes=[discrete,midpoint,central]"]
        needed[f"{lr:g}"] = [f"experiment=scalar_{size}", *own, *(["steps=1500"] if size == "paper" else [])]
    return needed


def measured(run):
    """Loss, sharpness and step size of the optimizer, and of the flow."""
    others = [
        [run.series(process, column) for process in ("midpoint", "central")]
        for column in ("sharpness", "effective_step_size")
    ]
    return (run.series("discrete", "loss"), run.prediction()), *others


def draw(**runs):
    """Draw both runs and their flows."""
    figure, axes = panels(1, 3, titles=TITLES, height=2.0)
    with_flow(axes, {f"η = {run.lr:g}": measured(run) for run in runs.values()})
    axes[1].legend(loc="lower right")
    return figure


def claims(**runs):
    """The larger η ends with less loss, less sharpness and a larger effective step."""
    smaller, larger = (
        [smoothing.smoothed(real).iloc[-1] for real, _ in measured(run)] for run in runs.values()
    )
    for check, before, after in zip((LOSS, SHARPNESS, STEP), smaller, larger):
        yield check(after / before)
