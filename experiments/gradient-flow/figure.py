"""Gradient flow leaves gradient descent at the edge of stability; the central flow stays with it [part 1]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import (
    distance_ratio,
    finish,
    flow,
    learning_rate,
    mean,
    panels,
    raw,
    series,
    spectrum,
    threshold,
)

CAPTION = """
Gradient descent (blue; wide: mean over 50 steps), its central flow (black) and gradient flow, the stable flow of
gradient descent (dashed): training loss, the central flow's as it predicts the time average (a), sharpness (b), one
output of the network (c), and the distance of either flow from gradient descent (d).
"""


def runs(size):
    """Part 1's run."""
    return {"gd": [f"experiment=gd_{size}"]}


def draw(runs):
    """Draw loss, sharpness, an output and distances."""
    run = runs["gd"]
    edge = 2 / learning_rate(run)
    figure, axes = panels(2, 2, sharex=True)
    raw(axes[0], series(run, "discrete", "loss"))
    mean(axes[0], series(run, "discrete", "loss"), label="gradient descent")
    flow(axes[0], series(run, "stable", "loss"), "stable", label="gradient flow")
    flow(axes[0], series(run, "central", "predicted_loss"), label="central flow")
    axes[0].set_ylim(0)
    axes[0].legend()
    raw(axes[1], series(run, "midpoint", "sharpness"), "midpoint", linewidth=0.9)
    flow(axes[1], series(run, "stable", "sharpness"), "stable")
    flow(axes[1], series(run, "central", "sharpness"))
    threshold(axes[1], edge, f"2/η = {edge:g}")
    axes[1].set_ylim(0, 3 * edge)
    raw(axes[2], spectrum(run, "discrete", "output")[0])
    mean(axes[2], spectrum(run, "discrete", "output")[0])
    for process in ("stable", "central"):
        flow(axes[2], spectrum(run, process, "output")[0], process)
        flow(axes[3], series(run, process, "distance_to_discrete"), process)
    axes[3].set_ylim(0)
    titles = ("training loss", "sharpness", "first output on the first example", "distance ‖w − w_GD‖")
    for ax, title in zip(axes, titles):
        ax.set_title(title, loc="left")
    return finish(figure)


def claims(runs):
    """The central flow is more than five times nearer."""
    yield Claim(
        "distance of gradient flow over that of the central flow, at the end",
        distance_ratio(runs["gd"]),
        low=5,
    )
