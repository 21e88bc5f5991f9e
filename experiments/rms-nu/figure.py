"""The central flow predicts RMSProp's second moments, most of which are oscillation [part 3]."""

import numpy as np

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import (
    edge_step,
    finish,
    flow,
    mean,
    median_error,
    panels,
    raw,
    since,
    spectrum,
    watched_moments,
)
from cflow_cli.report import definitions

CAPTION = """
Three of the watched weights of RMSProp. Above, the squared gradient g² at every iterate (pale), its mean over 50 steps
(wide), the time average that the central flow predicts (black) and (∂L/∂w)² along the flow itself (dotted). Below, the
second moment ν of the optimizer (wide) and of the central flow (black). At the vertical line the flow reaches the edge
of stability.
"""
SHOWN = 3


def runs(size):
    """Part 3's run."""
    return {"rmsprop": [f"experiment=rmsprop_{size}"]}


def gradients(run):
    """Squared gradients of the watched weights: of the optimizer, of the flow, as the flow predicts."""
    return (
        spectrum(run, "discrete", "grad_sq"),
        spectrum(run, "central", "grad_sq"),
        spectrum(run, "central", "predicted_grad_sq"),
    )


def draw(runs):
    """Draw g² above ν, a column per weight."""
    run = runs["rmsprop"]
    real, own, predicted = gradients(run)
    moments = {process: watched_moments(run, process) for process in ("discrete", "central")}
    figure, axes = panels(2, SHOWN, sharex=True)
    first = int(run.manifest["warm_start"])
    for place, (upper, lower) in enumerate(zip(axes[:SHOWN], axes[SHOWN:])):
        weight = real.columns[place]
        raw(upper, since(real[weight], first))
        mean(upper, since(real[weight], first), alpha=0.5, label="RMSProp (g²: mean)")
        flow(upper, own[weight], linestyle=(0, (1, 1)), linewidth=0.9, label="central flow, its own g²")
        flow(upper, predicted[weight], label="central flow, ν and predicted g²")
        flow(lower, moments["discrete"][weight], "midpoint", linewidth=3, alpha=0.5)
        flow(lower, moments["central"][weight])
        low = definitions.smoothed(real[weight]).min()
        upper.set(yscale="log", ylim=(low / 30, 3 * since(real[weight], first).max()))
        lower.set(yscale="log")
        upper.set_title(f"g² of weight {place + 1}", loc="left")
        lower.set_title(f"ν of weight {place + 1}", loc="left")
        for ax in (upper, lower):
            ax.axvline(edge_step(run), color="#999999", linewidth=0.7, zorder=0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return finish(figure)


def claims(runs):
    """ν of every watched weight is met, and most of their g² is not the flow's own."""
    run = runs["rmsprop"]
    edge = edge_step(run)
    real, own, _ = gradients(run)
    moments = {process: since(watched_moments(run, process), edge) for process in ("discrete", "central")}
    errors, shares = [], []
    for weight in real.columns:
        nu = definitions.smoothed(moments["discrete"][weight])
        errors.append(median_error(nu, moments["central"][weight]))
        smooth = since(definitions.smoothed(real[weight]), edge)
        shares.append((1 - own[weight] / smooth).median())
    yield Claim(
        "|ν of the flow / smoothed ν − 1|, median since the edge, worst weight", max(errors), high=0.15
    )
    yield Claim(
        "part of smoothed g² that is oscillation, median since the edge and over weights",
        np.median(shares),
        low=0.5,
    )
