"""The central flow predicts RMSProp's second moments, most of which are oscillation."""

import numpy as np

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import arrival, flow, mean, panels, raw
from cflow_cli.figures.measuring import since
from cflow_cli.report import definitions, smoothing

CAPTION = """
Three of the watched weights of RMSProp. Above, the squared gradient g² at every iterate (pale), its mean over 50 steps
(wide), the time average that the central flow predicts (black) and (∂L/∂w)² along the flow itself (dotted). Below, the
second moment ν of the optimizer (wide) and of the central flow (black). At the vertical line the flow reaches the edge
of stability.
"""
SHOWN = 3
ERROR = Check(
    "|ν of the flow / ν − 1|, both smoothed, median since the oscillation began, worst weight",
    high=0.15,
    paper="curves that cover each other",
)
PART = Check(
    "part of smoothed g² that is oscillation, median since the oscillation began and over weights",
    low=0.5,
    paper="most",
)


def runs(size):
    """Part 3's run."""
    return {"rmsprop": [f"experiment=rmsprop_{size}"]}


def draw(rmsprop):
    """Draw g² above ν, a column per weight."""
    real, own = (rmsprop.spectrum(process, "grad_sq") for process in ("discrete", "central"))
    predicted = rmsprop.spectrum("central", "predicted_grad_sq")
    nu, flow_nu = (rmsprop.watched_moments(process) for process in ("discrete", "central"))
    titles = [f"{name} of weight {place + 1}" for name in ("g²", "ν") for place in range(SHOWN)]
    figure, axes = panels(2, SHOWN, titles=titles, sharex=True)
    for weight, upper, lower in zip(real.columns, axes[:SHOWN], axes[SHOWN:]):
        shown = since(real[weight], rmsprop.branch_point)
        raw(upper, shown)
        mean(upper, shown, alpha=0.5, label="RMSProp (g²: mean)")
        flow(upper, own[weight], linestyle=(0, (1, 1)), linewidth=0.9, label="central flow, its own g²")
        flow(upper, predicted[weight], label="central flow, ν and predicted g²")
        flow(lower, nu[weight], "midpoint", linewidth=3, alpha=0.5)
        flow(lower, flow_nu[weight])
        low = smoothing.smoothed(real[weight]).min()
        upper.set(yscale="log", ylim=(low / 30, 3 * shown.max()))
        lower.set(yscale="log")
        for ax in (upper, lower):
            arrival(ax, rmsprop.edge)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def claims(rmsprop):
    """ν of every watched weight is met, and most of their g² is not the flow's own."""
    real, own = (rmsprop.spectrum(process, "grad_sq") for process in ("discrete", "central"))
    nu, flow_nu = (rmsprop.watched_moments(process) for process in ("discrete", "central"))
    errors, shares = [], []
    for weight in real.columns:
        errors.append(definitions.relative_error(nu[weight], flow_nu[weight], rmsprop.onset))
        smooth = since(smoothing.smoothed(real[weight]), rmsprop.onset)
        shares.append((1 - own[weight] / smooth).median())
    yield ERROR(max(errors))
    yield PART(np.median(shares))
