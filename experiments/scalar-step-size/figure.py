"""Scalar RMSProp's step size η/√ν is 2 over the sharpness: it is the edge of stability that sets it [part 2]."""

import numpy as np
import pandas as pd

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import (
    edge_step,
    finish,
    flow,
    learning_rate,
    mean,
    panels,
    raw,
    series,
    since,
    threshold,
)

CAPTION = """
Effective step size η/√ν (a), sharpness λ_max(H) (b) and their product (c): of Scalar RMSProp at its midpoints
(pale), their mean over 50 steps (wide), and of the central flow (black). The product is 2 (dotted): the
optimizer adapts its step to the sharpness alone.
"""


def runs(size):
    """Part 2's run."""
    return {"run": [f"experiment=scalar_{size}"]}


def step_size(run):
    """η/(√ν + ε), with ν from the recorded gradients by its definition."""
    options = run.config["optimizer"]
    b2, gradient = options["b2"], series(run, "discrete", "grad_norm_sq")
    # From ν = 0; adjust=True divides by 1 − β₂ᵗ, which is the bias correction.
    first = pd.Series([0.0]) if not options["bias_correction"] else pd.Series(dtype=float)
    values = pd.concat([first, gradient], ignore_index=True)
    nu = values.ewm(alpha=1 - b2, adjust=bool(options["bias_correction"])).mean()[len(first) :]
    return pd.Series(learning_rate(run) / (np.sqrt(nu.to_numpy()) + options["eps"]), index=gradient.index)


def measured(run):
    """Step size, sharpness of the midpoints, and their product."""
    step, sharpness = step_size(run), series(run, "midpoint", "sharpness")
    return step, sharpness, (step * sharpness).dropna()


def draw(runs):
    """Draw the step size, the sharpness and their product."""
    run = runs["run"]
    figure, axes = panels(1, 3, height=2.0)
    central = [series(run, "central", c) for c in ("preconditioner_mean", "sharpness", "effective_sharpness")]
    titles = ("effective step size η/√ν", "sharpness λ_max(H)", "their product")
    for ax, real, own, title in zip(axes, measured(run), central, titles):
        raw(ax, real, "midpoint", alpha=0.4, label="Scalar RMSProp")
        mean(ax, real, alpha=0.55, label="its 50-step mean")
        flow(ax, own, label="central flow")
        ax.set_title(title, loc="left")
        ax.set_ylim(0)
    threshold(axes[2], 2)
    axes[2].legend(loc="lower right")
    return finish(figure)


def claims(runs):
    """Once at the edge the product stays 2, while the sharpness rises and the step falls."""
    run = runs["run"]
    step, _, product = (since(values, edge_step(run)) for values in measured(run))
    yield Claim("step size times sharpness, mean from the edge on", product.mean(), 1.94, 2.06)
    yield Claim("the same, over the last half", product.iloc[len(product) // 2 :].mean(), 1.94, 2.06)
    yield Claim("step size at the end over that at the edge", step.iloc[-1] / step.iloc[0], high=0.9)
    recorded = since(series(run, "discrete", "preconditioner_mean"), edge_step(run))
    yield Claim(
        "step size from the gradients over the one recorded, largest deviation",
        (step / recorded - 1).abs().max(),
        high=1e-3,
    )
