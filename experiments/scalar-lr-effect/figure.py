"""Scalar RMSProp at a larger learning rate goes through flatter regions, and faster [part 2]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import finish, learning_rate, panels, series, with_flow
from cflow_cli.report import definitions

CAPTION = """
Scalar RMSProp at two learning rates from the same weights: training loss at the iterates (a), sharpness (b)
and effective step size η/√ν (c) at their midpoints (thin), with means over 50 steps (wide) and the central
flow of each (black; for the loss its prediction). The larger η is kept from the sharp regions; there the edge
of stability lets the effective step be larger, and the loss falls faster.
"""
RATES = {"mini": (0.02, 0.04), "paper": (0.01, 0.02)}


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
    loss = series(run, "discrete", "loss"), definitions.prediction(run.metrics, "central")
    others = [
        tuple(series(run, process, column) for process in ("midpoint", "central"))
        for column in ("sharpness", "preconditioner_mean")
    ]
    return loss, *others


def draw(runs):
    """Draw both runs and their flows."""
    figure, axes = panels(1, 3, height=2.0)
    lines = {f"η = {learning_rate(run):g}": measured(run) for run in runs.values()}
    with_flow(axes, lines, ("training loss", "sharpness λ_max(H)", "effective step size η/√ν"))
    axes[1].legend(loc="lower right")
    return finish(figure)


def claims(runs):
    """The larger η ends with less loss, less sharpness and a larger effective step."""
    ends = [[definitions.smoothed(real).iloc[-1] for real, _ in measured(run)] for run in runs.values()]
    (loss, sharpness, step), (next_loss, next_sharpness, next_step) = ends
    what = "50-step mean at the end, larger over smaller η"
    yield Claim(f"training loss, {what}", next_loss / loss, high=0.95)
    yield Claim(f"sharpness, {what}", next_sharpness / sharpness, high=0.95)
    yield Claim(f"effective step size, {what}", next_step / step, low=1.05)
