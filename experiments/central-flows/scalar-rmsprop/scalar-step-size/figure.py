"""Scalar RMSProp's step size η/√ν is 2 over the sharpness: it is the edge of stability that sets it."""

import numpy as np
import pandas as pd

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import flow, panels, raw, threshold, trend
from cflow_cli.figures.measuring import since

CAPTION = """
Effective step size η/√ν (a), sharpness λ_max(H) (b) and their product (c): of Scalar RMSProp at its midpoints
(pale), smoothed over 50 steps (wide), and of the central flow (black). The product is 2 (dotted): the
optimizer adapts its step to the sharpness alone.
"""
PANELS = {
    "effective_step_size": "effective step size η/√ν",
    "sharpness": "sharpness λ_max(H)",
    "effective_sharpness": "their product",
}
PRODUCT = Check("step size times sharpness, mean from the edge on", 1.94, 2.06, paper="2 ± 0.06")
LATE = Check("the same, over the last half", 1.94, 2.06, paper="2 ± 0.06")
FALL = Check(
    "step size at the end over that at the edge",
    high=0.9,
    paper="falls from .0035 to .0029 late in training, as the sharpness rises from 570 to 695",
)
RECORDED = Check("step size from the gradients over the one recorded, largest deviation", high=1e-3)


def runs(size):
    """Part 2's run."""
    return {"run": [f"experiment=scalar_{size}"]}


def step_size(run):
    """η/(√ν + ε), with ν from the recorded gradients by its definition."""
    options = run.config["optimizer"]
    b2, gradient = options["b2"], run.series("discrete", "grad_norm_sq")
    # From ν = 0; adjust=True divides by 1 − β₂ᵗ, which is the bias correction.
    first = pd.Series([0.0]) if not options["bias_correction"] else pd.Series(dtype=float)
    values = pd.concat([first, gradient], ignore_index=True)
    nu = values.ewm(alpha=1 - b2, adjust=bool(options["bias_correction"])).mean()[len(first) :]
    return pd.Series(run.lr / (np.sqrt(nu.to_numpy()) + options["eps"]), index=gradient.index)


def measured(run):
    """Step size, sharpness of the midpoints, and their product."""
    step, sharpness = step_size(run), run.series("midpoint", "sharpness")
    return step, sharpness, (step * sharpness).dropna()


def draw(run):
    """Draw the step size, the sharpness and their product."""
    figure, axes = panels(1, 3, titles=PANELS.values(), height=2.0)
    for ax, real, column in zip(axes, measured(run), PANELS):
        raw(ax, real, "midpoint", alpha=0.4, label="Scalar RMSProp")
        trend(ax, real, alpha=0.55, label="smoothed over 50 steps")
        flow(ax, run.series("central", column), label="central flow")
        ax.set_ylim(0)
    threshold(axes[2], 2)
    axes[2].legend(loc="lower right")
    return figure


def claims(run):
    """Once at the edge the product stays 2, while the sharpness rises and the step falls."""
    step, _, product = (since(values, run.edge) for values in measured(run))
    recorded = since(run.series("discrete", "effective_step_size"), run.edge)
    yield PRODUCT(product.mean())
    yield LATE(product.iloc[len(product) // 2 :].mean())
    yield FALL(step.iloc[-1] / step.iloc[0])
    yield RECORDED((step / recorded - 1).abs().max())
