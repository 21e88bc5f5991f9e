"""The linearised network leaves first, the stable flow at the edge, the central flow stays."""

import numpy as np

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, arrival, flow, panels, raw, threshold, trend
from cflow_cli.report import definitions

CAPTION = """
Gradient descent (blue; wide: smoothed over 50 steps), its central flow (black), its stable flow (dashed) and the
network linearised at the start (purple, dash-dotted): training loss (a), effective sharpness with that of the midpoints
(b), distance from gradient descent (c); the vertical line is the step at which the central flow reaches the edge. In
(d), in the tangent parametrisation and at one learning rate for all widths: the largest distance of the two functions
over a run (points: seeds; line: the fit of their logarithms).
"""
TITLES = (
    "training loss",
    "effective sharpness",
    "distance ‖w − w_GD‖",
    "function distance, largest, against width",
)
WIDTHS = {"mini": (32, 128, 512), "paper": (128, 256, 512, 1024, 2048, 4096)}
SEEDS = 3
PARTS = Check("first step at which its loss is off by 10 %, over the step at the edge", high=0.9)
CENTRAL = Check("distance of the linearised network over that of the central flow, at the end", low=5)
STABLE = Check("distance of the linearised network over that of the stable flow, at the end", low=2)
SLOPE = Check(
    "slope of log largest function distance against log width",
    -1.2,
    -0.4,
    paper="−1/2, a bound (Lee et al. 2019)",
)


def runs(size):
    """The run past the edge, and one for each width and seed."""
    past = {"gd": [f"experiment=linear_{size}"]}
    return past | {
        f"width_{width}_{seed}": [
            f"experiment=width_{size}",
            f"model.widths=[{width},{width}]",
            f"seed={seed}",
        ]
        for width in WIDTHS[size]
        for seed in range(SEEDS)
    }


def largest(widths):
    """Width and largest function distance of each run."""
    runs = [(int(name.split("_")[1]), run) for name, run in widths.items()]
    return np.array([(width, run.series("linear", "function_distance").max()) for width, run in runs]).T


def fit(widths):
    """Slope and intercept of the logarithms."""
    return np.polyfit(*np.log(largest(widths)), 1)


def draw(gd, **widths):
    """Draw loss, sharpness and distance of the run past the edge, and the widths."""
    figure, axes = panels(2, 2, titles=TITLES)
    raw(axes[0], gd.series("discrete", "loss"))
    trend(axes[0], gd.series("discrete", "loss"), alpha=0.5, label="gradient descent")
    raw(axes[1], gd.series("midpoint", "effective_sharpness"), "midpoint", linewidth=2, alpha=0.4)
    for process in ("linear", "stable", "central"):
        flow(axes[0], gd.prediction(process), process, label=definitions.words(process))
        flow(axes[1], gd.series(process, "effective_sharpness"), process)
        distance = gd.series(process, "distance_to_discrete")
        flow(axes[2], distance[distance > 0], process)
    axes[0].set_ylim(0)
    axes[0].legend()
    threshold(axes[1], 2)
    axes[1].set_ylim(0, 4)
    axes[1].set_xlabel("optimizer step")
    axes[2].set_yscale("log")
    for ax in axes[:3]:
        arrival(ax, gd.edge)
    width, distance = largest(widths)
    slope, intercept = fit(widths)
    axes[3].plot(width, distance, "o", color=SHADES[0], markersize=3)
    ends = np.array([width.min(), width.max()])
    axes[3].plot(ends, np.exp(intercept) * ends**slope, color=SHADES[1], label=f"slope {slope:.2f}")
    axes[3].set_xscale("log")
    axes[3].set_yscale("log")
    axes[3].set_xticks(np.unique(width), [f"{w:g}" for w in np.unique(width)])
    axes[3].set_xticks([], minor=True)
    axes[3].set_xlabel("width of both hidden layers")
    axes[3].legend()
    return figure


def claims(gd, **widths):
    """The linearised network parts before the edge, ends farthest away, and comes nearer with the width."""
    real, own = (gd.series(process, "loss") for process in ("discrete", "linear"))
    off = (own - real).abs() > 0.1 * real
    yield PARTS(off.idxmax() / gd.edge if off.any() else np.inf)
    yield CENTRAL(gd.times_nearer("central", "linear"))
    yield STABLE(gd.times_nearer("stable", "linear"))
    yield SLOPE(fit(widths)[0])
