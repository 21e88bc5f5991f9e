"""Without its curvature penalty the flow of RMSProp gets sharper and falls behind [part 3]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import finish, flow, mean, panels, raw, series
from cflow_cli.report import definitions

CAPTION = """
RMSProp (blue), its central flow (black) and the ablated flow (dash-dotted), which adapts ν to the oscillation as the
central flow does but leaves out its penalty on curvature: training loss at every iterate (pale), its mean over 50 steps
(wide) and what the flows predict it to be (a); sharpness (b) and harmonic mean over the weights of the step sizes D (c)
at the midpoints of RMSProp and along the flows.
"""
FLOWS = ("central", "ablated")


def runs(size):
    """Part 3's run; at mini one at a larger learning rate, where regularisation shows within few steps."""
    at_mini = ["lr=0.001", "steps=400", "processes=[discrete,midpoint,central,ablated]"]
    return {"rmsprop": [f"experiment=rmsprop_{size}", *(at_mini if size == "mini" else [])]}


def draw(runs):
    """Draw loss, sharpness and step size."""
    run = runs["rmsprop"]
    figure, axes = panels(1, 3, height=2.1)
    raw(axes[0], series(run, "discrete", "loss"))
    mean(axes[0], series(run, "discrete", "loss"), label="RMSProp")
    for ax, column in zip(axes[1:], ("sharpness", "preconditioner_mean")):
        raw(ax, series(run, "midpoint", column), "midpoint", linewidth=2.4, alpha=0.5)
    for process in FLOWS:
        flow(axes[0], series(run, process, "predicted_loss"), process, label=f"{process} flow")
        for ax, column in zip(axes[1:], ("sharpness", "preconditioner_mean")):
            flow(ax, series(run, process, column), process)
    for ax, title in zip(axes, ("training loss", "sharpness λ_max(H)", "harmonic mean of the step sizes")):
        ax.set_title(title, loc="left")
        ax.set_ylim(0)
    axes[0].legend()
    return finish(figure)


def claims(runs):
    """The ablated flow ends with more loss, more sharpness and smaller steps; the central flow as RMSProp."""
    run = runs["rmsprop"]

    def end(process, column):
        return definitions.mean_distance(series(run, process, column))

    for column, name, low, high in (
        ("sharpness", "sharpness", 1.05, float("inf")),
        ("preconditioner_mean", "mean step size", float("-inf"), 0.95),
        ("loss", "training loss", 1.0, float("inf")),
    ):
        yield Claim(
            f"{name} at the end, ablated over central flow",
            end("ablated", column) / end("central", column),
            low,
            high,
        )
        yield Claim(
            f"{name} at the end, central flow over midpoints",
            end("central", column) / end("midpoint", column),
            0.9,
            1.1,
        )
