"""Coordinate by coordinate, RMSProp's second moment joins the stationary one [part 3]."""

import numpy as np

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import edge_step, finish, flow, panels, since, watched_moments

CAPTION = """
Second moment ν of ten weights along the central flow of RMSProp (black), and the stationary ν̄ of the same weights
(orange, dots where it was measured). At the vertical line the flow reaches the edge of stability.
"""
COLUMNS = 5


def runs(size):
    """Part 3's run, which watches ten weights."""
    return {"rmsprop": [f"experiment=rmsprop_{size}"]}


def moments(run):
    """ν and ν̄ of the watched weights."""
    return watched_moments(run, "central"), watched_moments(run, "central", "stationary_preconditioner")


def draw(runs):
    """Draw ν and ν̄ in a panel per weight."""
    run = runs["rmsprop"]
    nu, rest = moments(run)
    figure, axes = panels(-(-nu.shape[1] // COLUMNS), COLUMNS, height=1.45, sharex=True)
    for place, (ax, weight) in enumerate(zip(axes, nu.columns)):
        flow(ax, rest[weight], "ablated", linestyle="-", marker=".", markersize=3, label="stationary ν̄")
        flow(ax, nu[weight], label="ν")
        ax.axvline(edge_step(run), color="#999999", linewidth=0.7, zorder=0)
        ax.set(yscale="log", title=f"weight {place + 1}")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2)
    return finish(figure)


def claims(runs):
    """They agree over the later half of the time at the edge."""
    run = runs["rmsprop"]
    nu, rest = moments(run)
    steps = since(rest, edge_step(run)).index
    later = steps[len(steps) // 2 :]
    yield Claim(
        f"ν over ν̄, median over {nu.shape[1]} weights and the later half of the steps at the edge",
        float(np.median(nu.loc[later] / rest.loc[later])),
        0.8,
        1.2,
    )
