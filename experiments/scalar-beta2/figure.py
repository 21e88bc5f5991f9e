"""The central flow of Scalar RMSProp knows what β₂ does to sharpness and ν [part 2]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import edge_step, finish, late_mean, panels, second_moment, series, with_flow
from cflow_cli.report import definitions

CAPTION = """
Scalar RMSProp with β₂ = 0.99 and 0.999 from the same weights: training loss at the iterates (a), sharpness
(b) and ν (c) at their midpoints (thin), with means over 50 steps (wide) and the central flow of each (black;
for the loss its prediction). At the larger β₂ both sharpness and ν are lower, in reality and in the flow.
"""


def runs(size):
    """Part 2's run, and one at the larger β₂."""
    preset = f"experiment=scalar_{size}"
    return {
        "0.99": [preset],
        "0.999": [preset, "optimizer.b2=0.999", "processes=[discrete,midpoint,central]"],
    }


def measured(run):
    """Loss, sharpness and ν of the optimizer, and of the flow."""
    loss = series(run, "discrete", "loss"), definitions.prediction(run.metrics, "central")
    sharpness = series(run, "midpoint", "sharpness"), series(run, "central", "sharpness")
    return loss, sharpness, (second_moment(run, "midpoint"), second_moment(run, "central"))


def draw(runs):
    """Draw both runs and their flows."""
    figure, axes = panels(1, 3, height=2.0)
    lines = {f"β₂ = {beta}": measured(run) for beta, run in runs.items()}
    with_flow(axes, lines, ("training loss", "sharpness λ_max(H)", "ν"))
    axes[0].legend(loc="lower left")
    return finish(figure)


def claims(runs):
    """Sharpness and ν are lower at the larger β₂, by as much in the flow as in reality."""
    start = max(edge_step(run) for run in runs.values())
    for place, name in ((1, "sharpness"), (2, "ν")):
        real, flow = (
            [late_mean(measured(run)[place][kind], start) for run in runs.values()] for kind in (0, 1)
        )
        yield Claim(
            f"{name}, mean over the last half from the edge on, β₂ = 0.999 over 0.99",
            real[1] / real[0],
            high=0.95,
        )
        yield Claim(
            "its difference between the two β₂, flow's over real",
            (flow[0] - flow[1]) / (real[0] - real[1]),
            0.7,
            1.3,
        )
