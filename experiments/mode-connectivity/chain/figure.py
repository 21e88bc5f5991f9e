"""Two straight lines that meet in one trained point lead from one network to another without a barrier."""

from cflow_cli.figures import pairs
from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import panels

CAPTION = """
Between networks of three different initial weights: training loss (a) and test error (b) along straight lines (pale)
and along two lines that meet in a point, at t = ½, that was trained.
"""
EXCESS = Check(
    "{each pair}: loss on the chain above the larger end, over it",
    high=0.2,
    paper="largest train loss .27 with ends at .24 (VGG16, C10)",
)
runs, paths = pairs.runs, pairs.paths


def draw(**found):
    """Draw losses and test errors."""
    figure, axes = panels(1, 2, height=2.1, titles=("training loss", "test error"))
    for number, path, _ in pairs.each(found):
        pairs.draw_along(axes, number, path, alpha=0.35)
        pairs.draw_along(axes, number, path, "chain", label=pairs.label(number))
    axes[0].set_yscale("log")
    axes[0].legend()
    axes[1].set_ylim(0)
    for ax in axes:
        ax.set_xlabel("t")
    return figure


def claims(**found):
    """The largest loss on each chain."""
    for _, path, name in pairs.each(found):
        yield EXCESS(path["chain"]["excess"] / path.end_loss, name)
