"""Central, rod and edge flow beside one run of gradient descent: distance, loss and cost."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import flow, panels, raw, threshold, trend
from cflow_cli.report import definitions

CAPTION = """
Gradient descent (blue; wide: smoothed over 50 steps) and four models of it: central (black), rod (dotted), edge (pink)
and stable flow (dashed). Training loss as they predict its time average (a), effective sharpness with that of the
midpoints (b), distance from gradient descent (c). Table (d): distance at the end, mean of the last 50 steps; median
error of the predicted loss since gradient descent oscillates; gradients, Hessian-vector products and third derivatives
per step.
"""
MODELS = ("central", "rod", "edge")
COSTS = {"gradients": "grads", "hvps": "HVPs", "third_derivatives": "3rd"}
TITLES = ("training loss", "effective sharpness", "distance ‖w − w_GD‖", "at the end, and per step")
NEARER = Check("{each} flow: distance of the stable flow over its own, at the end", low=1)
ERROR = Check("{each} flow: median error of the loss since it oscillates", high=0.05)


def runs(size):
    """Gradient descent with every model."""
    own = ["processes=[discrete,midpoint,stable,central,rod,edge]", "eigs.every=5"]
    return {"gd": [f"experiment=gd_{size}", *(["lr=0.2", "steps=600"] if size == "mini" else []), *own]}


def rows(run):
    """Of the table: distance, loss error and costs of each flow."""
    for process in (*MODELS, "stable"):
        distance = definitions.mean_distance(run.series(process, "distance_to_discrete"))
        costs = [f"{run.series(process, column).mean():.1f}" for column in COSTS]
        yield [process, f"{distance:.3g}", f"{run.error('loss', process):.1%}", *costs]


def draw(gd):
    """Draw loss, sharpness and distance, and the table."""
    figure, axes = panels(2, 2, titles=TITLES, height=2.1)
    raw(axes[0], gd.series("discrete", "loss"))
    trend(axes[0], gd.series("discrete", "loss"), alpha=0.5, label="gradient descent")
    sharpness = gd.series("midpoint", "effective_sharpness")
    raw(axes[1], sharpness, "midpoint", linewidth=2, alpha=0.4)
    for process in ("stable", "edge", "rod", "central"):
        flow(axes[0], gd.prediction(process), process, label=f"{process} flow")
        flow(axes[1], gd.series(process, "effective_sharpness"), process)
        distance = gd.series(process, "distance_to_discrete")
        flow(axes[2], distance[distance > 0], process)
    threshold(axes[1], 2)
    axes[0].set_ylim(0)
    axes[1].set_ylim(0, 1.5 * sharpness.max())
    axes[2].set_yscale("log")
    axes[0].legend()
    axes[1].set_xlabel("optimizer step")
    axes[3].axis("off")
    head = ["", "distance", "loss error", *COSTS.values()]
    table = axes[3].table(list(rows(gd)), colLabels=head, edges="horizontal", loc="center", cellLoc="right")
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    table.scale(1, 1.4)
    for cell in table.get_celld().values():
        cell.set(linewidth=0.5)
    return figure


def claims(gd):
    """Every model is nearer than the stable flow and predicts the loss within 5 %."""
    for process in MODELS:
        yield NEARER(gd.times_nearer(process), process)
        yield ERROR(gd.error("loss", process), process)
