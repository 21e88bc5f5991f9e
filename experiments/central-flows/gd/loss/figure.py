"""The loss along the central flow falls monotonically, and its prediction meets the real loss."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import flow, panels, raw, trend
from cflow_cli.figures.measuring import since
from cflow_cli.report import definitions, smoothing

CAPTION = """
Training loss of gradient descent L(w_t) (pale) and smoothed over 50 steps (wide); loss along the central flow L(w(t))
(dotted) and the time average it predicts, L(w(t)) + ½⟨H, Σ⟩ (black). From shortly before the edge of stability on.
"""
# A few units in the last place of float32.
RISE = Check("largest relative rise of L(w(t)) in a step", high=1e-6, paper="monotone, 0.206 to 0.160")
ERROR = Check(
    "|predicted − measured| / measured loss, both smoothed, median since the oscillation began",
    high=0.05,
    paper="predicted 0.222 to 0.180",
)
WITHOUT = Check("the same for L(w(t)), which leaves out the oscillation", words="at least that")


def runs(size):
    """Part 1's run."""
    return {"gd": [f"experiment=gd_{size}"]}


def draw(gd):
    """Draw the four losses."""
    first = int(0.8 * gd.edge)
    figure, (ax,) = panels(1, 1, height=2.4)
    real = since(gd.series("discrete", "loss"), first)
    raw(ax, real, label="L(w_t)")
    trend(ax, real, label="L(w_t), smoothed")
    own = since(gd.series("central", "loss"), first)
    flow(ax, own, linestyle=(0, (1, 1)), label="L(w(t))")
    flow(ax, since(gd.prediction(), first), label="predicted")
    smooth = smoothing.trend(real)
    ax.set_ylim(0.9 * min(own.min(), smooth.min()), 1.3 * smooth.max())
    ax.set_ylabel("training loss")
    ax.legend()
    return figure


def claims(gd):
    """L(w(t)) falls at every step; the prediction is within 5 % of the loss, both smoothed."""
    own = gd.series("central", "loss")
    error = gd.error("loss")
    without = definitions.relative_error(gd.series("discrete", "loss"), own, gd.onset)
    yield RISE((own.diff() / own).max())
    yield ERROR(error)
    yield WITHOUT(without, low=error)
