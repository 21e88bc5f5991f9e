"""Most of the gradient at the edge of stability is oscillation, and the central flow predicts it."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import flow, mean, panels, raw
from cflow_cli.figures.measuring import median_error, since

CAPTION = """
Squared gradient norm of gradient descent (pale) and its mean over 50 steps (wide); that along the central flow itself
(dotted) and the time average it predicts (black).
"""
ERROR = Check("|predicted − smoothed| / smoothed, median since the edge", high=0.1, paper="3.2 to 3.8")
PART = Check("part that is oscillation, median", low=0.9, paper="the flow's own is near 0")


def runs(size):
    """Part 1's run."""
    return {"gd": [f"experiment=gd_{size}"]}


def draw(gd):
    """Draw the four squared gradient norms."""
    first = int(0.8 * gd.edge)
    figure, (ax,) = panels(1, 1, height=2.4)
    real = since(gd.series("discrete", "grad_norm_sq"), first)
    raw(ax, real, label="‖∇L(w_t)‖²")
    mean(ax, real, label="its mean")
    own = since(gd.series("central", "grad_norm_sq"), first)
    flow(ax, own, linestyle=(0, (1, 1)), label="‖∇L(w(t))‖²")
    flow(ax, since(gd.series("central", "predicted_grad_norm_sq"), first), label="predicted")
    ax.set_yscale("log")
    ax.set_ylabel("squared gradient norm")
    ax.legend(ncols=2)
    return figure


def claims(gd):
    """The prediction is within 10 % of the smoothed value, nine tenths of which are oscillation."""
    smooth = since(gd.smoothed("discrete", "grad_norm_sq"), gd.edge)
    own, predicted = (gd.series("central", name) for name in ("grad_norm_sq", "predicted_grad_norm_sq"))
    both = smooth.index.intersection(own.index)
    yield ERROR(median_error(smooth, predicted))
    yield PART((1 - own[both] / predicted[both]).median())
