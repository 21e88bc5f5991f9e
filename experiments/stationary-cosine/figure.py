"""At the edge of stability RMSProp's second moment comes to rest where the weights say [part 3]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import edge_step, finish, flow, panels, series

CAPTION = """
Cosine of the angle between the second moment ν along the central flow of RMSProp and the stationary ν̄ of the same
weights, the one at which their oscillation would hold it; dots are measurements. It falls while nothing oscillates. At
the vertical line the flow reaches the edge of stability.
"""


def runs(size):
    """Part 3's run."""
    return {"rmsprop": [f"experiment=rmsprop_{size}"]}


def draw(runs):
    """Draw the cosine."""
    run = runs["rmsprop"]
    figure, (ax,) = panels(1, 1, height=2.2)
    cosine = series(run, "central", "nu_cosine")
    flow(ax, cosine, marker=".", markersize=4)
    ax.axvline(edge_step(run), color="#999999", linewidth=0.7, zorder=0)
    ax.set_ylim(0, 1.05)
    ax.set_ylabel("cosine of ν and ν̄")
    return finish(figure)


def claims(runs):
    """It rises after the edge, above 0.95."""
    run = runs["rmsprop"]
    cosine = series(run, "central", "nu_cosine")
    at_edge = cosine[cosine.index >= edge_step(run)]
    yield Claim("cosine of ν and ν̄ at the end", cosine.iloc[-1], low=0.95)
    yield Claim("what it has gained since the edge", cosine.iloc[-1] - at_edge.iloc[0], low=0)
    yield Claim(
        "largest relative duality gap, which bounds the error of P̄",
        series(run, "central", "stationary_gap").max(),
        high=0.01,
    )
