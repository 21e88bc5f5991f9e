"""Once the hidden units of two networks are in the same order, the barrier between them is lower."""

from cflow_cli.figures import pairs
from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import panels

CAPTION = """
Training loss (a) and test error (b) along the straight lines between networks of three different initial weights: as
they are (pale), and after the hidden units of one end were put in the order in which its weights are nearest to those
of the other.
"""
LOWER = Check(
    "{each pair}: barrier with matched units over that without", high=0.6, paper="→ 0 for wide networks"
)
runs = pairs.runs


def paths(size):
    """Lines between each two, as they are and matched."""
    return pairs.paths(size) | pairs.between("matched", {"kind": "line", "match": True})


def draw(**found):
    """Draw loss and test error along the lines."""
    figure, axes = panels(1, 2, height=2.1, titles=("training loss", "test error"))
    for (number, before, _), (_, after, _) in zip(pairs.each(found), pairs.each(found, "matched")):
        pairs.draw_along(axes, number, before, alpha=0.35)
        pairs.draw_along(axes, number, after, label=f"{pairs.label(number)}, matched")
    for ax in axes:
        ax.set_ylim(0)
        ax.set_xlabel("t")
    axes[0].legend()
    return figure


def claims(**found):
    """How much lower each barrier becomes."""
    for (_, before, name), (_, after, _) in zip(pairs.each(found), pairs.each(found, "matched")):
        yield LOWER(after["line"]["barrier"] / before["line"]["barrier"], name)
