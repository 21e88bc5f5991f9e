"""Effective eigenvalues of RMSProp stop at 2, and the central flow stays with it."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import eigenvalues, flow, panels, threshold
from cflow_cli.figures.measuring import since

CAPTION = """
RMSProp: the four largest effective eigenvalues, of D^½HD^½, at its midpoints (a) and along its central flow (b), which
stop at 2 one after the other; distance of the central flow (black) and of the stable flow (dashed), which knows of no
oscillation, from RMSProp (c).
"""
ANIMATED = True
SHOWN = 4
TITLES = (
    "effective eigenvalues, midpoints",
    "effective eigenvalues, central flow",
    "distance ‖w − w_RMSProp‖",
)
AT_EDGE = Check("eigenvalues of the flow at the edge, most", low=2, paper="3")
NEARER = Check(
    "distance of the stable flow over that of the central flow, at the end",
    low=3,
    paper="more than 4 over 0.8",
)


def runs(size):
    """Part 3's run."""
    return {"rmsprop": [f"experiment=rmsprop_{size}"]}


def draw(rmsprop):
    """Draw eigenvalues, measured and of the flow, and distances."""
    figure, axes = panels(1, 3, titles=TITLES, height=2.1, sharex=True)
    for ax, process in zip(axes, ("midpoint", "central")):
        table = rmsprop.spectrum(process).dropna(how="all")
        eigenvalues(ax, since(table, rmsprop.branch_point), SHOWN)
        threshold(ax, 2)
        ax.set_ylim(0, 3.6)
    axes[0].legend(ncols=4, loc="upper left", columnspacing=1, handlelength=1)
    for process in ("stable", "central"):
        flow(axes[2], rmsprop.series(process, "distance_to_discrete"), process, label=f"{process} flow")
    axes[2].set_ylim(0)
    axes[2].legend(loc="upper left")
    return figure


def claims(rmsprop):
    """Several directions arrive, and the central flow is more than three times nearer."""
    yield AT_EDGE(rmsprop.series("central", "num_critical").max())
    yield NEARER(rmsprop.times_nearer())
