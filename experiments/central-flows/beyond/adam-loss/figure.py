"""Adam's loss, as its central flow predicts it, over two decades."""

import numpy as np

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import arrival, flow, panels, raw, trend
from cflow_cli.report import smoothing

CAPTION = """
Training loss of Adam at every iterate (pale), smoothed over 50 steps (wide), what the central flow predicts that to be
(black) and the loss along the stable flow (dashed). At the vertical line the flow reaches the edge of stability.
"""
DECADES = Check("decades that the loss falls by", low=2)
ERROR = Check("|predicted − measured| / measured loss, both smoothed, median", high=0.1)
OSCILLATING = Check("the same since Adam oscillates", high=0.1)


def runs(size):
    """Adam's run of momentum-edge."""
    at_mini = ["lr=0.003", "steps=800", "warm_start=20"]
    own = at_mini if size == "mini" else ["lr=1.0e-4", "warm_start=20"]
    return {"adam": [f"experiment=momentum_{size}", "optimizer=adam", "optimizer.b2=0.99", *own]}


def draw(adam):
    """Draw the losses."""
    figure, (ax,) = panels(1, 1, height=2.6)
    loss = adam.series("discrete", "loss")
    raw(ax, loss)
    trend(ax, loss, label="Adam, smoothed")
    flow(ax, adam.series("stable", "loss"), "stable", label="stable flow")
    flow(ax, adam.prediction(), label="predicted by the central flow")
    arrival(ax, adam.edge)
    ax.set_yscale("log")
    ax.set_ylabel("training loss")
    ax.legend()
    return figure


def claims(adam):
    """The loss falls by two decades, and the prediction is within 10 %."""
    loss = adam.series("discrete", "loss")
    yield DECADES(np.log10(loss.iloc[0] / smoothing.smoothed(loss).iloc[-1]))
    yield ERROR(adam.error("loss", start=adam.branch_point))
    yield OSCILLATING(adam.error("loss"))
