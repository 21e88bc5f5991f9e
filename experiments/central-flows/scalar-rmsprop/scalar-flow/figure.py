"""The central flow of Scalar RMSProp stays with it at the edge of stability; the stable flow leaves."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import flow, panels, threshold, trend

CAPTION = """
The three largest effective eigenvalues, those of (η/√ν)·H, of Scalar RMSProp at its midpoints (blue, smoothed over 50
steps) and of the central flow (black), and the largest of the stable flow, which ignores the oscillation (dashed) (a);
the edge of stability is 2. Distance of both flows from the iterates of Scalar RMSProp (b).
"""
SHOWN = 3
NEARER = Check(
    "distance of the stable flow over that of the central flow",
    low=5,
    paper="stable flow departs at step 150",
)


def runs(size):
    """Part 2's run."""
    return {"run": [f"experiment=scalar_{size}"]}


def draw(run):
    """Draw the spectra and the distances."""
    figure, axes = panels(1, 2, titles=("effective eigenvalues", "distance from the iterates"), height=2.1)
    real, central = run.spectrum("midpoint"), run.spectrum("central")
    for place in range(SHOWN):
        own = {"label": "midpoints of RMSProp"} if place == 0 else {}
        trend(axes[0], real[place].dropna(), alpha=0.5, **own)
        flow(axes[0], central[place], label="central flow" if place == 0 else None)
    flow(axes[0], run.series("stable", "effective_sharpness"), "stable", label="stable flow")
    threshold(axes[0], 2)
    axes[0].set_ylim(0, 4)
    axes[0].legend(loc="upper right")
    for process in ("stable", "central"):
        distance = run.series(process, "distance_to_discrete")
        flow(axes[1], distance[distance > 0], process, label=f"{process} flow")
    axes[1].set_yscale("log")
    axes[1].legend()
    return figure


def claims(run):
    """The stable flow ends much farther from the optimizer than the central flow."""
    yield NEARER(run.times_nearer())
