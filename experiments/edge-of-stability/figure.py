"""Sharpness rises to 2/η and stays there, at each learning rate [part 1]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import (
    SHADES,
    edge_step,
    finish,
    late_mean,
    learning_rate,
    panels,
    raw,
    series,
    threshold,
)

CAPTION = """
Gradient descent at two learning rates: training loss (a) and sharpness (b) at every iterate. The sharpness rises until
it reaches 2/η (dotted), where it stays while the loss goes on falling, no longer monotonically.
"""
ANIMATED = True


def runs(size):
    """Part 1's run, and one at another learning rate."""
    preset = f"experiment=gd_{size}"
    other = ["lr=0.2"] if size == "mini" else ["lr=0.01", "steps=6500"]
    return {"first": [preset], "second": [preset, *other]}


def draw(runs):
    """Draw loss and sharpness of both runs."""
    figure, axes = panels(1, 2)
    for run, colour in zip(runs.values(), SHADES):
        lr = learning_rate(run)
        look = {"color": colour, "alpha": 0.9, "linewidth": 0.8}
        raw(axes[0], series(run, "discrete", "loss"), label=f"η = {lr:g}", **look)
        raw(axes[1], series(run, "discrete", "sharpness"), **look)
        threshold(axes[1], 2 / lr, f"2/η = {2 / lr:g}")
    axes[0].set_title("training loss", loc="left")
    axes[1].set_title("sharpness λ_max(H)", loc="left")
    axes[0].set_ylim(0)
    axes[1].set_ylim(0, 1.8 * max(2 / learning_rate(run) for run in runs.values()))
    axes[0].legend()
    return finish(figure)


def claims(runs):
    """The sharpness starts below 2/η, reaches it, and equilibrates there."""
    for run in runs.values():
        edge = 2 / learning_rate(run)
        sharpness = series(run, "midpoint", "sharpness") / edge
        reached = edge_step(run)
        name = f"sharpness over 2/η at η = {learning_rate(run):g}"
        yield Claim(f"{name}, at the start", sharpness.iloc[0], high=0.7)
        yield Claim(
            f"{name}, mean over the last half after reaching it", late_mean(sharpness, reached), 0.95, 1.05
        )
