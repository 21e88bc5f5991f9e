"""Most of the gradient at the edge of stability is oscillation, and the central flow predicts it [part 1]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import edge_step, finish, flow, mean, median_error, panels, raw, series, since
from cflow_cli.report import definitions

CAPTION = """
Squared gradient norm of gradient descent (pale) and its mean over 50 steps (wide); that along the central flow itself
(dotted) and the time average it predicts (black).
"""


def runs(size):
    """Part 1's run."""
    return {"gd": [f"experiment=gd_{size}"]}


def draw(runs):
    """Draw the four squared gradient norms."""
    run = runs["gd"]
    first = int(0.8 * edge_step(run))
    figure, (ax,) = panels(1, 1, height=2.4)
    real = since(series(run, "discrete", "grad_norm_sq"), first)
    raw(ax, real, label="‖∇L(w_t)‖²")
    mean(ax, real, label="its mean")
    flow(ax, since(series(run, "central", "grad_norm_sq"), first), linestyle=(0, (1, 1)), label="‖∇L(w(t))‖²")
    flow(ax, since(series(run, "central", "predicted_grad_norm_sq"), first), label="predicted")
    ax.set_yscale("log")
    ax.set_ylabel("squared gradient norm")
    ax.legend(ncols=2)
    return finish(figure)


def claims(runs):
    """The prediction is within 10 % of the smoothed value, nine tenths of which are oscillation."""
    run = runs["gd"]
    smooth = since(definitions.smoothed(series(run, "discrete", "grad_norm_sq")), edge_step(run))
    own, predicted = (series(run, "central", name) for name in ("grad_norm_sq", "predicted_grad_norm_sq"))
    yield Claim(
        "|predicted − smoothed| / smoothed, median since the edge", median_error(smooth, predicted), high=0.1
    )
    both = smooth.index.intersection(own.index)
    yield Claim("part that is oscillation, median", (1 - own[both] / predicted[both]).median(), low=0.9)
