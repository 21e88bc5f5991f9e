"""Without its sharpness penalty the flow of Scalar RMSProp gets sharper and falls behind."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import flow, panels, raw
from cflow_cli.figures.measuring import until

CAPTION = """
Scalar RMSProp at its midpoints (pale), its central flow (black) and the ablated flow (dash-dotted), which
adapts ν to the oscillation as the central flow does but leaves out its penalty on sharpness: training loss
(a), sharpness (b) and effective step size η/√ν (c). Both flows stay at the edge of stability, where the step
is 2 over the sharpness: what regularises sharpness also lets the steps be larger.
"""
PANELS = {
    "loss": "training loss",
    "sharpness": "sharpness λ_max(H)",
    "effective_step_size": "effective step size η/√ν",
}
SHARPNESS = Check("sharpness at the end, ablated over central flow", low=1.05, paper="330/160")
STEP = Check("effective step size at the end, ablated over central flow", high=0.95, paper=".006/.0125")
LOSS = Check("training loss at the end, ablated over central flow", low=1, paper=".157/.105")


def runs(size):
    """Part 2's run."""
    return {"run": [f"experiment=scalar_{size}"]}


def draw(run):
    """Draw loss, sharpness and step size."""
    figure, axes = panels(1, 3, titles=PANELS.values(), height=2.0)
    for ax, column in zip(axes, PANELS):
        raw(ax, run.series("midpoint", column), "midpoint", linewidth=2.4, alpha=0.4, label="midpoints")
        for process in ("central", "ablated"):
            flow(ax, run.series(process, column), process, label=f"{process} flow")
        ax.set_ylim(0)
    axes[1].legend(loc="lower right")
    return figure


def claims(run):
    """The ablated flow ends with more loss, more sharpness and smaller steps than the central flow."""
    for column, check in {"sharpness": SHARPNESS, "effective_step_size": STEP, "loss": LOSS}.items():
        ablated, central = (run.series(process, column) for process in ("ablated", "central"))
        last = min(ablated.index[-1], central.index[-1])
        yield check(until(ablated, last).iloc[-1] / until(central, last).iloc[-1])
