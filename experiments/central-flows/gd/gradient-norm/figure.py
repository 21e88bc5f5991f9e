"""Most of the gradient at the edge of stability is oscillation, and the central flow predicts it."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import flow, mean, panels, raw
from cflow_cli.figures.measuring import since

CAPTION = """
Squared gradient norm of gradient descent (pale) and its mean over 50 steps (wide); that along the central flow itself
(dotted) and the time average it predicts (black).
"""
ERROR = Check(
    "|predicted − measured| / measured, both smoothed, median since the oscillation began",
    high=0.1,
    paper="3.2 to 3.8",
)
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
    """The prediction is within 10 %, and nine tenths of it are oscillation."""
    own, predicted = (
        since(gd.series("central", name), gd.onset) for name in ("grad_norm_sq", "predicted_grad_norm_sq")
    )
    yield ERROR(gd.error("grad_norm_sq"))
    yield PART((1 - own / predicted).median())
