"""Without its curvature penalty the flow of RMSProp gets sharper and falls behind."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import flow, panels, raw, trend
from cflow_cli.report import definitions

CAPTION = """
RMSProp (blue), its central flow (black) and the ablated flow (dash-dotted), which adapts ν to the oscillation as the
central flow does but leaves out its penalty on curvature: training loss at every iterate (pale), smoothed over 50 steps
(wide) and what the flows predict it to be (a); sharpness (b) and harmonic mean over the weights of the step sizes D (c)
at the midpoints of RMSProp and along the flows.
"""
TITLES = ("training loss", "sharpness λ_max(H)", "harmonic mean of the step sizes")
SHARPNESS = Check("sharpness at the end, ablated over central flow", low=1.05, paper="815 over 80")
STEP = Check("mean step size at the end, ablated over central flow", high=0.95)
LOSS = Check("training loss at the end, ablated over central flow", low=1, paper="0.033 over 0.007")
REAL = Check("{each of these} at the end, central flow over midpoints", 0.9, 1.1)


def runs(size):
    """Part 3's run; at mini one at a larger learning rate, where regularisation shows within few steps."""
    at_mini = ["lr=0.001", "steps=400", "processes=[discrete,midpoint,central,ablated]"]
    return {"rmsprop": [f"experiment=rmsprop_{size}", *(at_mini if size == "mini" else [])]}


def draw(rmsprop):
    """Draw loss, sharpness and step size."""
    figure, axes = panels(1, 3, titles=TITLES, height=2.1)
    raw(axes[0], rmsprop.series("discrete", "loss"))
    trend(axes[0], rmsprop.series("discrete", "loss"), label="RMSProp")
    for process in ("central", "ablated"):
        flow(axes[0], rmsprop.prediction(process), process, label=f"{process} flow")
    for ax, column in zip(axes[1:], ("sharpness", "effective_step_size")):
        raw(ax, rmsprop.series("midpoint", column), "midpoint", linewidth=2.4, alpha=0.5)
        for process in ("central", "ablated"):
            flow(ax, rmsprop.series(process, column), process)
    for ax in axes:
        ax.set_ylim(0)
    axes[0].legend()
    return figure


def claims(rmsprop):
    """The ablated flow ends with more loss, more sharpness and smaller steps; the central flow as RMSProp."""
    checks = {
        "sharpness": (SHARPNESS, "sharpness"),
        "effective_step_size": (STEP, "mean step size"),
        "loss": (LOSS, "training loss"),
    }
    for column, (check, name) in checks.items():
        ablated, central, real = (
            definitions.mean_distance(rmsprop.series(process, column))
            for process in ("ablated", "central", "midpoint")
        )
        yield check(ablated / central)
        yield REAL(central / real, name)
