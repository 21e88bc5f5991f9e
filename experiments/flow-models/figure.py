"""Central, rod and edge flow beside one run of gradient descent: distance, loss and cost [beyond the paper]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import (
    distance_ratio,
    finish,
    flow,
    mean,
    panels,
    raw,
    series,
    since,
    threshold,
)
from cflow_cli.report import definitions

CAPTION = """
Gradient descent (blue; wide: mean over 50 steps) and four models of it: central (black), rod (dotted), edge (pink) and
stable flow (dashed). Training loss as they predict its time average (a), effective sharpness with that of the midpoints
(b), distance from gradient descent (c). Table (d): distance at the end, mean of the last 50 steps; median error of the
predicted loss since the edge; gradients, Hessian-vector products and third derivatives per step.
"""
MODELS = ("central", "rod", "edge")
COSTS = {"gradients": "grads", "hvps": "HVPs", "third_derivatives": "3rd"}


def runs(size):
    """Gradient descent with every model."""
    own = ["processes=[discrete,midpoint,stable,central,rod,edge]", "eigs.every=5"]
    return {"gd": [f"experiment=gd_{size}", *(["lr=0.2", "steps=600"] if size == "mini" else []), *own]}


def edge(run):
    """Step at which gradient descent itself arrives: the models do so at steps of their own."""
    return definitions.onset(series(run, "midpoint", "effective_sharpness")) or 0


def loss_error(run, process):
    """Median of |predicted − smoothed| / smoothed loss since the edge."""
    predicted = since(definitions.prediction(run.metrics, process), edge(run))
    return definitions.relative_error(series(run, "discrete", "loss"), predicted)


def rows(run):
    """Of the table: distance, loss error and costs of each flow."""
    for process in (*MODELS, "stable"):
        distance = definitions.mean_distance(series(run, process, "distance_to_discrete"))
        costs = [series(run, process, column).mean() for column in COSTS]
        yield [
            process,
            f"{distance:.3g}",
            f"{loss_error(run, process):.1%}",
            *(f"{cost:.1f}" for cost in costs),
        ]


def draw(runs):
    """Draw loss, sharpness and distance, and the table."""
    run = runs["gd"]
    figure, axes = panels(2, 2, height=2.1)
    raw(axes[0], series(run, "discrete", "loss"))
    mean(axes[0], series(run, "discrete", "loss"), alpha=0.5, label="gradient descent")
    sharpness = series(run, "midpoint", "effective_sharpness")
    raw(axes[1], sharpness, "midpoint", linewidth=2, alpha=0.4)
    for process in ("stable", "edge", "rod", "central"):
        flow(axes[0], definitions.prediction(run.metrics, process), process, label=f"{process} flow")
        flow(axes[1], series(run, process, "effective_sharpness"), process)
        distance = series(run, process, "distance_to_discrete")
        flow(axes[2], distance[distance > 0], process)
    threshold(axes[1], 2)
    axes[0].set_ylim(0)
    axes[1].set_ylim(0, 1.5 * sharpness.max())
    axes[2].set_yscale("log")
    axes[0].legend()
    axes[3].axis("off")
    head = ["", "distance", "loss error", *COSTS.values()]
    table = axes[3].table(list(rows(run)), colLabels=head, edges="horizontal", loc="center", cellLoc="right")
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    table.scale(1, 1.4)
    for cell in table.get_celld().values():
        cell.set(linewidth=0.5)
    titles = ("training loss", "effective sharpness", "distance ‖w − w_GD‖", "at the end, and per step")
    for ax, title in zip(axes, titles):
        ax.set_title(title, loc="left")
    axes[1].set_xlabel("optimizer step")
    return finish(figure)


def claims(runs):
    """Every model is nearer than the stable flow and predicts the loss within 5 %."""
    run = runs["gd"]
    for process in MODELS:
        yield Claim(
            f"{process} flow: distance of the stable flow over its own, at the end",
            distance_ratio(run, process),
            low=1,
        )
        yield Claim(
            f"{process} flow: median error of the loss since the edge", loss_error(run, process), high=0.05
        )
