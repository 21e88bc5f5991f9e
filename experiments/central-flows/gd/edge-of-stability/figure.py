"""Sharpness rises to 2/η and stays there, at each learning rate."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels, raw, threshold
from cflow_cli.figures.measuring import late_mean

CAPTION = """
Gradient descent at two learning rates: training loss (a) and sharpness (b) at every iterate. The sharpness rises until
it reaches 2/η (dotted), where it stays while the loss goes on falling, no longer monotonically.
"""
ANIMATED = True
START = Check("sharpness over 2/η at {each η}, at the start", high=0.7, paper="0.45")
EDGE = Check(
    "sharpness over 2/η at {each η}, mean over the last half after reaching it", 0.95, 1.05, "1.03 ± 0.05"
)


def runs(size):
    """Part 1's run, and one at another learning rate."""
    preset = f"experiment=gd_{size}"
    other = ["lr=0.2"] if size == "mini" else ["lr=0.01", "steps=6500"]
    return {"first": [preset], "second": [preset, *other]}


def draw(**runs):
    """Draw loss and sharpness of both runs."""
    figure, axes = panels(1, 2, titles=("training loss", "sharpness λ_max(H)"))
    for run, colour in zip(runs.values(), SHADES):
        look = {"color": colour, "alpha": 0.9, "linewidth": 0.8}
        raw(axes[0], run.series("discrete", "loss"), label=f"η = {run.lr:g}", **look)
        raw(axes[1], run.series("discrete", "sharpness"), **look)
        threshold(axes[1], 2 / run.lr, f"2/η = {2 / run.lr:g}")
    axes[0].set_ylim(0)
    axes[1].set_ylim(0, 1.8 * max(2 / run.lr for run in runs.values()))
    axes[0].legend()
    return figure


def claims(**runs):
    """The sharpness starts below 2/η, reaches it, and equilibrates there."""
    for run in runs.values():
        sharpness = run.series("midpoint", "sharpness") / (2 / run.lr)
        yield START(sharpness.iloc[0], f"η = {run.lr:g}")
        yield EDGE(late_mean(sharpness, run.edge), f"η = {run.lr:g}")
