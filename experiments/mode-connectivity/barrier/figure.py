"""On the straight line between two trained networks the loss rises to many times what it is at its ends."""

from cflow_cli.figures import pairs
from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import panels

CAPTION = """
Training loss (a) and test error (b) along the straight lines between networks that were trained alike from three
different initial weights.
"""
BARRIER = Check(
    "{each pair}: barrier over the loss at its ends", low=3, paper="VGG16, C10: 90 % test error in the middle"
)
runs, paths = pairs.runs, pairs.paths


def draw(**found):
    """Draw loss and test error along the lines."""
    figure, axes = panels(1, 2, height=2.1, titles=("training loss", "test error"))
    for number, path, _ in pairs.each(found):
        pairs.draw_along(axes, number, path, label=pairs.label(number))
    for ax in axes:
        ax.set_ylim(0)
        ax.set_xlabel("t")
    axes[0].legend()
    return figure


def claims(**found):
    """The barrier of each pair."""
    for _, path, name in pairs.each(found):
        yield BARRIER(path["line"]["barrier"] / path.end_loss, name)
