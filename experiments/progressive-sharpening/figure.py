"""Progressive sharpening: training drives the sharpness up to 2/η [part 1]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import edge_step, finish, learning_rate, panels, raw, series, threshold

CAPTION = """
Gradient descent until a little after it reaches the edge of stability: training loss (a) and sharpness (b) at every
iterate. While the loss falls the sharpness rises, up to 2/η (dotted).
"""


def runs(size):
    """Part 1's run."""
    return {"gd": [f"experiment=gd_{size}"]}


def draw(runs):
    """Draw loss and sharpness up to the edge."""
    run = runs["gd"]
    last = 1.03 * edge_step(run)
    figure, axes = panels(1, 2)
    for ax, column, title in zip(axes, ("loss", "sharpness"), ("training loss", "sharpness λ_max(H)")):
        values = series(run, "discrete", column)
        raw(ax, values[values.index <= last], linewidth=1.2, alpha=1)
        ax.set_title(title, loc="left")
        ax.set_ylim(0)
    edge = 2 / learning_rate(run)
    threshold(axes[1], edge, f"2/η = {edge:g}")
    axes[1].set_ylim(0, 1.15 * edge)
    return finish(figure)


def claims(runs):
    """The sharpness rises from well below 2/η to 2/η, most of the way at every step."""
    run = runs["gd"]
    reached = edge_step(run)
    rising = series(run, "discrete", "sharpness") * learning_rate(run) / 2
    rising = rising[rising.index <= reached]
    yield Claim("sharpness over 2/η at the start", rising.iloc[0], high=0.7)
    yield Claim(f"sharpness over 2/η at step {reached}", rising.iloc[-1], 0.95, 1.05)
    yield Claim("share of the steps before at which it rises", (rising.diff().dropna() > 0).mean(), low=0.8)
