"""On the straight line between two trained networks the loss rises to many times what it is at its ends."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels

CAPTION = """
Training loss (a) and test error (b) along the straight lines between networks that were trained alike from three
different initial weights.
"""
BARRIER = Check(
    "{each pair}: barrier over the loss at its ends", low=3, paper="VGG16, C10: 90 % test error in the middle"
)
SEEDS = (0, 1, 2)


def runs(size):
    """Three runs that differ in their initial weights only."""
    return {f"seed {seed}": [f"experiment=connectivity_{size}", f"seed={seed}"] for seed in SEEDS}


def paths(size):
    """All curves between each two, as the figures bezier and chain have them, too."""
    options = {"kind": "line,bezier,chain", "steps": 300 if size == "mini" else 2000}
    return {f"pair {a}": (f"seed {a}", f"seed {(a + 1) % len(SEEDS)}", options) for a in SEEDS}


def draw(**found):
    """Draw loss and test error along the lines."""
    figure, axes = panels(1, 2, height=2.1, titles=("training loss", "test error"))
    for number in SEEDS:
        path = found[f"pair {number}"]
        loss, accuracy = path.loss(), path.loss("line", "test_accuracy")
        axes[0].plot(loss.index, loss, color=SHADES[number], label=f"seeds {number}, {(number + 1) % 3}")
        axes[1].plot(accuracy.index, 1 - accuracy, color=SHADES[number])
    for ax in axes:
        ax.set_ylim(0)
        ax.set_xlabel("t")
    axes[0].legend()
    return figure


def claims(**found):
    """The barrier of each pair."""
    for number in SEEDS:
        path = found[f"pair {number}"]
        yield BARRIER(path["line"]["barrier"] / path.end_loss, f"seeds {number} and {(number + 1) % 3}")
