"""Coordinate by coordinate, RMSProp's second moment joins the stationary one."""

import numpy as np

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import arrival, flow, panels
from cflow_cli.figures.measuring import since

CAPTION = """
Second moment ν of ten weights along the central flow of RMSProp (black), and the stationary ν̄ of the same weights
(orange, dots where it was measured). At the vertical line the flow reaches the edge of stability.
"""
COLUMNS = 5
RATIO = Check(
    "ν over ν̄, median over {the ten} weights and the later half of the steps at the edge",
    *(0.8, 1.2),
    paper="they agree from step 800 on, the edge being at 650",
)


def runs(size):
    """Part 3's run, which watches ten weights."""
    return {"rmsprop": [f"experiment=rmsprop_{size}"]}


def moments(run):
    """ν and ν̄ of the watched weights."""
    return run.watched_moments("central"), run.watched_moments("central", "stationary_step_size")


def draw(rmsprop):
    """Draw ν and ν̄ in a panel per weight."""
    nu, rest = moments(rmsprop)
    figure, axes = panels(-(-nu.shape[1] // COLUMNS), COLUMNS, height=1.45, sharex=True)
    for place, (ax, weight) in enumerate(zip(axes, nu.columns)):
        flow(ax, rest[weight], "ablated", linestyle="-", marker=".", markersize=3, label="stationary ν̄")
        flow(ax, nu[weight], label="ν")
        arrival(ax, rmsprop.edge)
        ax.set_yscale("log")
        ax.set_title(f"weight {place + 1}", loc="center")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2)
    return figure


def claims(rmsprop):
    """They agree over the later half of the time at the edge."""
    nu, rest = moments(rmsprop)
    steps = since(rest, rmsprop.edge).index
    later = steps[len(steps) // 2 :]
    yield RATIO(np.median(nu.loc[later] / rest.loc[later]), nu.shape[1])
