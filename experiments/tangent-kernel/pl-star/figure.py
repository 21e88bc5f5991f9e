"""At the edge of stability the top of the tangent kernel sits at 2/η, and PL* holds with room to spare."""

import numpy as np

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import flow, panels, threshold
from cflow_cli.figures.measuring import late_mean, since
from cflow_cli.report import style

CAPTION = """
Gradient descent through the edge of stability, at its midpoints (blue) and along the central flow (black). (a) The
largest eigenvalue of the tangent kernel, wide and pale, and the sharpness, thin: equal once the data is nearly
fitted, and held at 2/η (dotted). (b) The PL ratio ½‖∇L‖²/L between the kernel's extreme eigenvalues (grey): the edge
bounds the kernel's condition number by 2/(ηκ_min). (c) Rate at which the loss falls per step, −d ln L, over what the
PL ratio promises, 2ημ, and over what the smallest eigenvalue does, 2ηκ_min.
"""
LEAST = Check(
    "PL ratio over the kernel's smallest eigenvalue, least of all rows", low=1 - 1e-4, paper="at least 1"
)
MOST = Check(
    "PL ratio over the kernel's largest eigenvalue, largest of all rows", high=1 + 1e-4, paper="at most 1"
)
SHARPNESS = Check("|S − κ_max|/S at the edge, mean of midpoints", high=0.1)
EDGE = Check("κ_max over 2/η at the edge, central flow", 0.9, 1.05)
PROCESSES = ("midpoint", "central")


def runs(size):
    """Gradient descent on a small network; paper: on four times the examples, of which there are 2,000 rows."""
    return {"gd": ["experiment=pl_star", *(["data.n=200", "steps=2000"] if size == "paper" else [])]}


def rate(run, process):
    """−d ln L per step, between two measurements of the kernel."""
    loss = run.series(process, "loss")[run.series(process, "pl_ratio").index]
    steps = loss.index.to_numpy(float)
    return loss.iloc[:-1] * 0 - np.diff(np.log(loss)) / np.diff(steps)


def promised(run, process, column):
    """2η times a column, the mean of the two measurements around."""
    values = 2 * run.lr * run.series(process, column)
    return (values.iloc[:-1] + values.to_numpy()[1:]) / 2


def draw(gd):
    """Draw the kernel's top with the sharpness, its extremes with the PL ratio, and the rates."""
    titles = ("kernel's top, sharpness", "PL ratio and extremes", "rate of the loss over promise")
    figure, axes = panels(1, 3, titles=titles, height=2.2)
    for process in PROCESSES:
        colour = style.colour(process)
        top = gd.series(process, "kernel_max")
        axes[0].plot(top.index, top, color=colour, linewidth=3, alpha=0.35)
        flow(axes[0], gd.series(process, "sharpness"), process, linewidth=0.8, label=process)
        flow(axes[1], gd.series(process, "pl_ratio"), process, label=f"PL ratio, {process}")
        for column, look in (("pl_ratio", "-"), ("kernel_min", ":")):
            ratio = rate(gd, process) / promised(gd, process, column)
            name = {"pl_ratio": "2ημ", "kernel_min": "2ηκ_min"}[column]
            axes[2].plot(ratio.index, ratio, look, color=colour, linewidth=1, label=f"over {name}, {process}")
    for column in ("kernel_min", "kernel_max"):
        values = gd.series("midpoint", column)
        axes[1].plot(values.index, values, color="#777777", linewidth=1)
    threshold(axes[0], 2 / gd.lr)
    axes[0].set_ylim(0)
    axes[1].set_yscale("log")
    axes[2].set_yscale("log")
    for ax in axes:
        ax.legend(fontsize=6)
    return figure


def claims(gd):
    """The PL ratio lies between the extremes; at the edge the kernel's top is the sharpness, and both are 2/η."""
    ratios = {"kernel_min": [], "kernel_max": []}
    for process in ("discrete", *PROCESSES):
        for column, found in ratios.items():
            found.append(gd.series(process, "pl_ratio") / gd.series(process, column))
    yield LEAST(min(ratio.min() for ratio in ratios["kernel_min"]))
    yield MOST(max(ratio.max() for ratio in ratios["kernel_max"]))
    top = gd.series("midpoint", "kernel_max")
    sharpness = gd.series("midpoint", "sharpness")[top.index]
    yield SHARPNESS(since((sharpness - top).abs() / sharpness, gd.edge).mean())
    yield EDGE(late_mean(gd.series("central", "kernel_max") * gd.lr / 2, gd.edge))
