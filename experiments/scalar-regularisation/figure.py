"""Without its sharpness penalty the flow of Scalar RMSProp gets sharper and falls behind [part 2]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import finish, flow, panels, raw, series

CAPTION = """
Scalar RMSProp at its midpoints (pale), its central flow (black) and the ablated flow (dash-dotted), which
adapts ν to the oscillation as the central flow does but leaves out its penalty on sharpness: training loss
(a), sharpness (b) and effective step size η/√ν (c). Both flows stay at the edge of stability, where the step
is 2 over the sharpness: what regularises sharpness also lets the steps be larger.
"""
PANELS = {
    "loss": "training loss",
    "sharpness": "sharpness λ_max(H)",
    "preconditioner_mean": "effective step size η/√ν",
}


def runs(size):
    """Part 2's run."""
    return {"run": [f"experiment=scalar_{size}"]}


def draw(runs):
    """Draw loss, sharpness and step size."""
    run = runs["run"]
    figure, axes = panels(1, 3, height=2.0)
    for ax, (column, title) in zip(axes, PANELS.items()):
        raw(ax, series(run, "midpoint", column), "midpoint", linewidth=2.4, alpha=0.4, label="midpoints")
        for process in ("central", "ablated"):
            flow(ax, series(run, process, column), process, label=f"{process} flow")
        ax.set_title(title, loc="left")
        ax.set_ylim(0)
    axes[1].legend(loc="lower right")
    return finish(figure)


def claims(runs):
    """The ablated flow ends with more loss, more sharpness and smaller steps than the central flow."""
    run = runs["run"]
    for column, name, low, high in (
        ("sharpness", "sharpness", 1.05, float("inf")),
        ("preconditioner_mean", "effective step size", float("-inf"), 0.95),
        ("loss", "training loss", 1.0, float("inf")),
    ):
        values = {process: series(run, process, column) for process in ("ablated", "central")}
        last = min(each.index[-1] for each in values.values())
        own, central = (each[each.index <= last].iloc[-1] for each in values.values())
        yield Claim(f"{name} at the end, ablated over central flow", own / central, low, high)
