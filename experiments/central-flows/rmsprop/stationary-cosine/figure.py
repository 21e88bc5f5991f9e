"""At the edge of stability RMSProp's second moment comes to rest where the weights say."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import arrival, flow, panels
from cflow_cli.figures.measuring import since

CAPTION = """
Cosine of the angle between the second moment ν along the central flow of RMSProp and the stationary ν̄ of the same
weights, the one at which their oscillation would hold it; dots are measurements. It falls while nothing oscillates. At
the vertical line the flow reaches the edge of stability.
"""
END = Check(
    "cosine of ν and ν̄ at the end",
    low=0.95,
    paper="above 0.999; 0.767, 0.925, 0.994 at steps 400, 600, 800",
)
GAIN = Check("what it has gained since the edge", low=0)
GAP = Check("largest relative duality gap, which bounds the error of P̄", high=0.01)


def runs(size):
    """Part 3's run."""
    return {"rmsprop": [f"experiment=rmsprop_{size}"]}


def draw(rmsprop):
    """Draw the cosine."""
    figure, (ax,) = panels(1, 1, height=2.2)
    flow(ax, rmsprop.series("central", "nu_cosine"), marker=".", markersize=4)
    arrival(ax, rmsprop.edge)
    ax.set_ylim(0, 1.05)
    ax.set_ylabel("cosine of ν and ν̄")
    return figure


def claims(rmsprop):
    """It rises after the edge, above 0.95."""
    cosine = rmsprop.series("central", "nu_cosine")
    yield END(cosine.iloc[-1])
    yield GAIN(cosine.iloc[-1] - since(cosine, rmsprop.edge).iloc[0])
    yield GAP(rmsprop.series("central", "stationary_gap").max())
