"""The central flow of Scalar RMSProp knows what β₂ does to sharpness and ν."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import panels, with_flow
from cflow_cli.figures.measuring import late_mean

CAPTION = """
Scalar RMSProp with β₂ = 0.99 and 0.999 from the same weights: training loss at the iterates (a), sharpness
(b) and ν (c) at their midpoints (thin), smoothed over 50 steps (wide) and the central flow of each (black;
for the loss its prediction). At the larger β₂ both sharpness and ν are lower, in reality and in the flow.
"""
RATIO = Check(
    "{sharpness, and ν}, mean over the last half from the edge on, β₂ = 0.999 over 0.99",
    high=0.95,
    paper="115/146, and .16/.30",
)
DIFFERENCE = Check("its difference between the two β₂, flow's over real", 0.7, 1.3, paper="near 1")


def runs(size):
    """Part 2's run, and one at the larger β₂."""
    preset = f"experiment=scalar_{size}"
    return {
        "0.99": [preset],
        "0.999": [preset, "optimizer.b2=0.999", "processes=[discrete,midpoint,central]"],
    }


def measured(run):
    """Loss, sharpness and ν of the optimizer, and of the flow."""
    return (
        (run.series("discrete", "loss"), run.prediction()),
        (run.series("midpoint", "sharpness"), run.series("central", "sharpness")),
        (run.second_moment("midpoint"), run.second_moment("central")),
    )


def draw(**runs):
    """Draw both runs and their flows."""
    figure, axes = panels(1, 3, titles=("training loss", "sharpness λ_max(H)", "ν"), height=2.0)
    with_flow(axes, {f"β₂ = {beta}": measured(run) for beta, run in runs.items()})
    axes[0].legend(loc="lower left")
    return figure


def claims(**runs):
    """Sharpness and ν are lower at the larger β₂, by as much in the flow as in reality."""
    start = max(run.edge for run in runs.values())
    for place, name in ((1, "sharpness"), (2, "ν")):
        real, flow = (
            [late_mean(measured(run)[place][kind], start) for run in runs.values()] for kind in (0, 1)
        )
        yield RATIO(real[1] / real[0], name)
        yield DIFFERENCE((flow[0] - flow[1]) / (real[0] - real[1]))
