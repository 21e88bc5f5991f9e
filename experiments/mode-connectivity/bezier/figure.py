"""A Bézier curve with one bend leads from one trained network to another without a barrier."""

from cflow_cli.figures import pairs
from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels
from cflow_cli.report import connectivity

CAPTION = """
Between networks of three different initial weights: training loss along straight lines (pale) and Bézier curves whose
one bend was trained (a); test error along the curves (b); and for the first pair the loss on the plane through both
ends and the bend, with the line (grey) and the curve in it, and the projection of the chain of two lines (dotted)
(c).
"""
EXCESS = Check(
    "{each pair}: loss on the curve above the larger end, over it",
    high=0.1,
    paper="largest train loss as at the ends: VGG16 .24, PreResNet164 .18, WRN .09 (C10)",
)
LOW = Check(
    "{each pair}: smallest loss on the curve over that of the ends", high=0.5, paper=".14 / .24 (VGG16)"
)
ERROR = Check(
    "{each pair}: largest test error on the curve minus that of the ends, in points",
    high=5,
    paper="+.8, +.2, +.15 (VGG16, PreResNet164, WRN)",
)
runs, paths = pairs.runs, pairs.paths


def draw(**found):
    """Draw losses, test errors and the plane of the first pair."""
    titles = ("training loss", "test error on the curve", "")
    figure, axes = panels(1, 3, height=2.1, titles=titles, width_ratios=(1, 1, 1.35))
    for number, path, _ in pairs.each(found):
        for kind, look in (("line", {"alpha": 0.35}), ("bezier", {"label": pairs.label(number)})):
            loss = path.loss(kind)
            axes[0].plot(loss.index, loss, color=SHADES[number], **look)
        error = 1 - path.loss("bezier", "test_accuracy")
        axes[1].plot(error.index, error, color=SHADES[number])
    axes[0].set_yscale("log")
    axes[0].legend()
    axes[1].set_ylim(0)
    for ax in axes[:2]:
        ax.set_xlabel("t")
    connectivity.draw_plane(axes[2], found["pair 0"].paths)
    axes[2].set_title("plane through the bend")
    return figure


def claims(**found):
    """The largest and smallest loss on each curve, and its largest test error."""
    for _, path, words in pairs.each(found):
        curve, end = path["bezier"], path.end_loss
        yield EXCESS(curve["excess"] / end, words)
        yield LOW(curve["min_loss"] / end, words)
        yield ERROR(100 * (curve["max_test_error"] - path.end_test_error), words)
