"""Gradient flow leaves gradient descent at the edge of stability; the central flow stays with it."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import flow, panels, raw, threshold, trend

CAPTION = """
Gradient descent (blue; wide: smoothed over 50 steps), its central flow (black) and gradient flow, the stable flow of
gradient descent (dashed): training loss, the central flow's as it predicts the time average (a), sharpness (b), one
output of the network (c), and the distance of either flow from gradient descent (d).
"""
TITLES = ("training loss", "sharpness", "first output on the first example", "distance ‖w − w_GD‖")
NEARER = Check(
    "distance of gradient flow over that of the central flow, at the end",
    low=5,
    paper="1.5 against less than 0.05",
)


def runs(size):
    """Part 1's run."""
    return {"gd": [f"experiment=gd_{size}"]}


def draw(gd):
    """Draw loss, sharpness, an output and distances."""
    edge = 2 / gd.lr
    figure, axes = panels(2, 2, titles=TITLES, sharex=True)
    raw(axes[0], gd.series("discrete", "loss"))
    trend(axes[0], gd.series("discrete", "loss"), label="gradient descent")
    flow(axes[0], gd.series("stable", "loss"), "stable", label="gradient flow")
    flow(axes[0], gd.prediction(), label="central flow")
    axes[0].set_ylim(0)
    axes[0].legend()
    raw(axes[1], gd.series("midpoint", "sharpness"), "midpoint", linewidth=0.9)
    threshold(axes[1], edge, f"2/η = {edge:g}")
    axes[1].set_ylim(0, 3 * edge)
    raw(axes[2], gd.spectrum("discrete", "output")[0])
    trend(axes[2], gd.spectrum("discrete", "output")[0])
    for process in ("stable", "central"):
        flow(axes[1], gd.series(process, "sharpness"), process)
        flow(axes[2], gd.spectrum(process, "output")[0], process)
        flow(axes[3], gd.series(process, "distance_to_discrete"), process)
    axes[3].set_ylim(0)
    return figure


def claims(gd):
    """The central flow is more than five times nearer."""
    yield NEARER(gd.times_nearer())
