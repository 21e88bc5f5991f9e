"""Adam's loss, as its central flow predicts it, over two decades [beyond the paper]."""

import numpy as np

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import edge_step, finish, flow, mean, median_error, panels, raw, series, since
from cflow_cli.report import definitions

CAPTION = """
Training loss of Adam at every iterate (pale), its mean over 50 steps (wide), what the central flow predicts that to be
(black) and the loss along the stable flow (dashed). At the vertical line the flow reaches the edge of stability.
"""


def runs(size):
    """Adam's run of momentum-edge."""
    at_mini = ["lr=0.003", "steps=800", "warm_start=20"]
    own = at_mini if size == "mini" else ["lr=1.0e-4", "warm_start=20"]
    return {"adam": [f"experiment=momentum_{size}", "optimizer=adam", "optimizer.b2=0.99", *own]}


def draw(runs):
    """Draw the losses."""
    run = runs["adam"]
    figure, (ax,) = panels(1, 1, height=2.6)
    loss = series(run, "discrete", "loss")
    raw(ax, loss)
    mean(ax, loss, label="Adam, mean")
    flow(ax, series(run, "stable", "loss"), "stable", label="stable flow")
    flow(ax, series(run, "central", "predicted_loss"), label="predicted by the central flow")
    ax.axvline(edge_step(run), color="#999999", linewidth=0.7, zorder=0)
    ax.set_yscale("log")
    ax.set_ylabel("training loss")
    ax.legend()
    return finish(figure)


def claims(runs):
    """The loss falls by two decades, and the prediction is within 10 %."""
    run = runs["adam"]
    loss = series(run, "discrete", "loss")
    smooth, predicted = definitions.smoothed(loss), series(run, "central", "predicted_loss")
    yield Claim("decades that the loss falls by", np.log10(loss.iloc[0] / smooth.iloc[-1]), low=2)
    yield Claim("|predicted − smoothed| / smoothed loss, median", median_error(smooth, predicted), high=0.1)
    since_edge = since(predicted, edge_step(run))
    yield Claim("the same since the edge of stability", median_error(smooth, since_edge), high=0.1)
