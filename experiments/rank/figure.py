"""The rank of Σ is the number of eigenvalues at 2/η [part 1]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import (
    NUMERICAL_ZERO,
    edge_step,
    eigenvalues,
    finish,
    flow,
    learning_rate,
    panels,
    since,
    spectrum,
    threshold,
)

CAPTION = """
Four largest Hessian eigenvalues along the central flow of gradient descent (a), and the rank of the covariance Σ of its
oscillation (b, black) beside the number of eigenvalues at 2/η (wide).
"""
SHOWN = 4
# The flow holds its critical eigenvalues at 2 to better than this; one that comes near without arriving has no part.
AT_EDGE = 2 * (1 - 1e-3)


def runs(size):
    """Part 1's run."""
    return {"gd": [f"experiment=gd_{size}"]}


def ranks(run):
    """Number of eigenvalues of the central flow at the edge, and the rank of Σ, at each step."""
    at_edge = (spectrum(run, "central") >= AT_EDGE).sum(axis=1)
    sigma = spectrum(run, "central", "sigma")
    rank = (sigma.gt(NUMERICAL_ZERO * sigma.max(axis=1), axis=0) & (sigma > 0)).sum(axis=1)
    return at_edge, rank.reindex(at_edge.index, fill_value=0)


def draw(runs):
    """Draw eigenvalues, and the rank below them."""
    run = runs["gd"]
    lr = learning_rate(run)
    at_edge, rank = ranks(run)
    figure, axes = panels(2, 1, height=1.7, sharex=True)
    eigenvalues(axes[0], spectrum(run, "central"), SHOWN, scale=lr)
    threshold(axes[0], 2 / lr, f"2/η = {2 / lr:g}")
    axes[0].set_ylim(0, 1.4 * 2 / lr)
    axes[0].legend(ncols=4, loc="upper left")
    axes[0].set_title("eigenvalues along the central flow", loc="left")
    flow(axes[1], at_edge, "midpoint", linewidth=3, alpha=0.5, label="eigenvalues at 2/η")
    flow(axes[1], rank, label="rank Σ")
    axes[1].locator_params(axis="y", integer=True)
    axes[1].legend(loc="upper left")
    axes[1].set_title("rank of Σ", loc="left")
    return finish(figure)


def claims(runs):
    """The two numbers are equal."""
    run = runs["gd"]
    at_edge, rank = ranks(run)
    after = edge_step(run)
    yield Claim("largest rank", rank.max(), low=2)
    equal = since(at_edge == rank, after).mean()
    yield Claim(
        f"share of the steps from {after} on at which rank Σ = number of eigenvalues at 2/η", equal, low=0.95
    )
