"""Progressive sharpening: training drives the sharpness up to 2/η."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import panels, raw, threshold
from cflow_cli.figures.measuring import until

CAPTION = """
Gradient descent until a little after it reaches the edge of stability: training loss (a) and sharpness (b) at every
iterate. While the loss falls the sharpness rises, up to 2/η (dotted).
"""
START = Check("sharpness over 2/η at the start", high=0.7, paper="0.45")
EDGE = Check("sharpness over 2/η at {the edge}", 0.95, 1.05, paper="1, near step 1600")
RISING = Check("share of the steps before at which it rises", low=0.8)


def runs(size):
    """Part 1's run."""
    return {"gd": [f"experiment=gd_{size}"]}


def draw(gd):
    """Draw loss and sharpness up to the edge."""
    figure, axes = panels(1, 2, titles=("training loss", "sharpness λ_max(H)"))
    for ax, column in zip(axes, ("loss", "sharpness")):
        raw(ax, until(gd.series("discrete", column), 1.03 * gd.edge), linewidth=1.2, alpha=1)
        ax.set_ylim(0)
    edge = 2 / gd.lr
    threshold(axes[1], edge, f"2/η = {edge:g}")
    axes[1].set_ylim(0, 1.15 * edge)
    return figure


def claims(gd):
    """The sharpness rises from well below 2/η to 2/η, most of the way at every step."""
    rising = until(gd.series("discrete", "sharpness") * gd.lr / 2, gd.edge)
    yield START(rising.iloc[0])
    yield EDGE(rising.iloc[-1], f"step {gd.edge}")
    yield RISING((rising.diff().dropna() > 0).mean())
