"""The rank of Σ is the number of eigenvalues at 2/η."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import eigenvalues, flow, panels, threshold
from cflow_cli.figures.measuring import NUMERICAL_ZERO, since

CAPTION = """
Four largest Hessian eigenvalues along the central flow of gradient descent (a), and the rank of the covariance Σ of its
oscillation (b, black) beside the number of eigenvalues at 2/η (wide).
"""
SHOWN = 4
# The flow holds its critical eigenvalues at 2 to better than this; one that comes near without arriving has no part.
AT_EDGE = 2 * (1 - 1e-3)
LARGEST = Check("largest rank", low=2, paper="3")
EQUAL = Check(
    "share of the steps from {the edge} on at which rank Σ = number of eigenvalues at 2/η",
    low=0.95,
    paper="equal",
)


def runs(size):
    """Part 1's run."""
    return {"gd": [f"experiment=gd_{size}"]}


def ranks(run):
    """Number of eigenvalues of the central flow at the edge, and the rank of Σ, at each step."""
    at_edge = (run.spectrum("central") >= AT_EDGE).sum(axis=1)
    sigma = run.spectrum("central", "sigma")
    rank = (sigma.gt(NUMERICAL_ZERO * sigma.max(axis=1), axis=0) & (sigma > 0)).sum(axis=1)
    return at_edge, rank.reindex(at_edge.index, fill_value=0)


def draw(gd):
    """Draw eigenvalues, and the rank below them."""
    edge = 2 / gd.lr
    at_edge, rank = ranks(gd)
    figure, axes = panels(
        2, 1, titles=("eigenvalues along the central flow", "rank of Σ"), height=1.7, sharex=True
    )
    eigenvalues(axes[0], gd.spectrum("central"), SHOWN, scale=gd.lr)
    threshold(axes[0], edge, f"2/η = {edge:g}")
    axes[0].set_ylim(0, 1.4 * edge)
    axes[0].legend(ncols=4, loc="upper left")
    flow(axes[1], at_edge, "midpoint", linewidth=3, alpha=0.5, label="eigenvalues at 2/η")
    flow(axes[1], rank, label="rank Σ")
    axes[1].locator_params(axis="y", integer=True)
    axes[1].legend(loc="upper left")
    return figure


def claims(gd):
    """The two numbers are equal."""
    at_edge, rank = ranks(gd)
    yield LARGEST(rank.max())
    yield EQUAL(since(at_edge == rank, gd.edge).mean(), gd.edge)
