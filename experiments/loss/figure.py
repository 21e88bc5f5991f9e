"""The loss along the central flow falls monotonically, and its prediction meets the real loss [part 1]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import edge_step, finish, flow, mean, median_error, panels, raw, series, since
from cflow_cli.report import definitions

CAPTION = """
Training loss of gradient descent L(w_t) (pale) and its mean over 50 steps (wide); loss along the central flow L(w(t))
(dotted) and the time average it predicts, L(w(t)) + ½⟨H, Σ⟩ (black). From shortly before the edge of stability on.
"""


def runs(size):
    """Part 1's run."""
    return {"gd": [f"experiment=gd_{size}"]}


def draw(runs):
    """Draw the four losses."""
    run = runs["gd"]
    first = int(0.8 * edge_step(run))
    figure, (ax,) = panels(1, 1, height=2.4)
    real = series(run, "discrete", "loss")
    raw(ax, since(real, first), label="L(w_t)")
    mean(ax, since(real, first), label="mean of L(w_t)")
    own = since(series(run, "central", "loss"), first)
    flow(ax, own, linestyle=(0, (1, 1)), label="L(w(t))")
    flow(ax, since(series(run, "central", "predicted_loss"), first), label="predicted")
    smooth = definitions.smoothed(since(real, first))
    ax.set_ylim(0.9 * min(own.min(), smooth.min()), 1.3 * smooth.max())
    ax.set_ylabel("training loss")
    ax.legend()
    return finish(figure)


def claims(runs):
    """L(w(t)) falls at every step; the prediction is within 5 % of the smoothed loss."""
    run = runs["gd"]
    own = series(run, "central", "loss")
    smooth = since(definitions.smoothed(series(run, "discrete", "loss")), edge_step(run))
    rise = (own.diff() / own).max()
    # A few units in the last place of float32.
    yield Claim("largest relative rise of L(w(t)) in a step", rise, high=1e-6)
    error = median_error(smooth, series(run, "central", "predicted_loss"))
    yield Claim("|predicted − smoothed| / smoothed loss, median since the edge", error, high=0.05)
    yield Claim(
        "the same for L(w(t)), which leaves out the oscillation", median_error(smooth, own), low=error
    )
