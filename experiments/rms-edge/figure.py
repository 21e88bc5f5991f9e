"""Effective eigenvalues of RMSProp stop at 2, and the central flow stays with it [part 3]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import (
    distance_ratio,
    eigenvalues,
    finish,
    flow,
    panels,
    series,
    spectrum,
    threshold,
)

CAPTION = """
RMSProp: the four largest effective eigenvalues, of D^½HD^½, at its midpoints (a) and along its central flow (b), which
stop at 2 one after the other; distance of the central flow (black) and of the stable flow (dashed), which knows of no
oscillation, from RMSProp (c).
"""
ANIMATED = True
SHOWN = 4


def runs(size):
    """Part 3's run."""
    return {"rmsprop": [f"experiment=rmsprop_{size}"]}


def draw(runs):
    """Draw eigenvalues, measured and of the flow, and distances."""
    run = runs["rmsprop"]
    figure, axes = panels(1, 3, height=2.1, sharex=True)
    first = int(run.manifest["warm_start"])
    for ax, process, title in zip(axes, ("midpoint", "central"), ("midpoints", "central flow")):
        table = spectrum(run, process).dropna(how="all")
        eigenvalues(ax, table[table.index >= first], SHOWN)
        threshold(ax, 2)
        ax.set_ylim(0, 3.6)
        ax.set_title(f"effective eigenvalues, {title}", loc="left")
    axes[0].legend(ncols=4, loc="upper left", columnspacing=1, handlelength=1)
    for process in ("stable", "central"):
        flow(axes[2], series(run, process, "distance_to_discrete"), process, label=f"{process} flow")
    axes[2].set_ylim(0)
    axes[2].legend(loc="upper left")
    axes[2].set_title("distance ‖w − w_RMSProp‖", loc="left")
    return finish(figure)


def claims(runs):
    """Several directions arrive, and the central flow is more than three times nearer."""
    run = runs["rmsprop"]
    yield Claim(
        "eigenvalues of the flow at the edge, most", series(run, "central", "num_critical").max(), low=2
    )
    yield Claim(
        "distance of the stable flow over that of the central flow, at the end", distance_ratio(run), low=3
    )
