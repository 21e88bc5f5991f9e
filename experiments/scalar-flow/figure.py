"""The central flow of Scalar RMSProp stays with it at the edge of stability; the stable flow leaves [part 2]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import (
    distance_ratio,
    finish,
    flow,
    mean,
    panels,
    series,
    spectrum,
    threshold,
)

CAPTION = """
The three largest effective eigenvalues, those of (η/√ν)·H, of Scalar RMSProp at its midpoints (blue, 50-step mean)
and of the central flow (black), and the largest of the stable flow, which ignores the oscillation (dashed) (a); the
edge of stability is 2. Distance of both flows from the iterates of Scalar RMSProp (b).
"""
SHOWN = 3


def runs(size):
    """Part 2's run."""
    return {"run": [f"experiment=scalar_{size}"]}


def draw(runs):
    """Draw the spectra and the distances."""
    run = runs["run"]
    figure, axes = panels(1, 2, height=2.1)
    real, central = spectrum(run, "midpoint"), spectrum(run, "central")
    for place in range(SHOWN):
        own = {"label": "midpoints of RMSProp"} if place == 0 else {}
        mean(axes[0], real[place].dropna(), alpha=0.5, **own)
        flow(axes[0], central[place], label="central flow" if place == 0 else None)
    flow(axes[0], series(run, "stable", "effective_sharpness"), "stable", label="stable flow")
    threshold(axes[0], 2)
    axes[0].set_ylim(0, 4)
    axes[0].legend(loc="upper right")
    axes[0].set_title("effective eigenvalues", loc="left")
    for process in ("stable", "central"):
        distance = series(run, process, "distance_to_discrete")
        flow(axes[1], distance[distance > 0], process, label=f"{process} flow")
    axes[1].set_yscale("log")
    axes[1].legend()
    axes[1].set_title("distance from the iterates", loc="left")
    return finish(figure)


def claims(runs):
    """The stable flow ends much farther from the optimizer than the central flow."""
    yield Claim(
        "distance of the stable flow over that of the central flow", distance_ratio(runs["run"]), low=5
    )
