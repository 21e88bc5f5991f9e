"""The central flow predicts the variance of the oscillation: one critical eigenvalue [part 1]."""

import numpy as np

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import (
    edge_step,
    finish,
    flow,
    learning_rate,
    mean,
    median_ratio,
    panels,
    raw,
    series,
    spectrum,
)
from cflow_cli.report import definitions

CAPTION = """
Squared displacement x² of gradient descent from the central flow along its critical eigenvector while there is one
(pale), its mean over 50 steps (wide), and the variance σ² that the central flow predicts (black).
"""


def runs(size):
    """A run that has one critical eigenvalue for long: that of part 1 at full size, at mini one of a single output."""
    return {"gd": ["experiment=gd_one_mini" if size == "mini" else "experiment=gd_paper"]}


def variances(run):
    """x² and σ² in units of weight², from the edge to the entry of a second eigenvalue, or the end."""
    critical = series(run, "central", "num_critical")
    start = edge_step(run)
    several = critical[(critical.index > start) & (critical >= 2)]
    end = several.index[0] - 1 if len(several) else critical.index[-1]
    # Recorded in the D^-1 norm, and D = η here.
    scale = learning_rate(run)
    return [spectrum(run, "central", kind)[0].loc[start:end] * scale for kind in ("sigma_measured", "sigma")]


def draw(runs):
    """Draw x², its mean, and σ²."""
    measured, predicted = variances(runs["gd"])
    figure, (ax,) = panels(1, 1, height=2.4)
    raw(ax, measured, label="x²")
    mean(ax, measured, label="x², mean")
    flow(ax, predicted, label="σ²")
    ax.set_ylim(0, 2.5 * np.nanmax(definitions.smoothed(measured)))
    ax.set_ylabel("squared displacement")
    ax.legend()
    return finish(figure)


def claims(runs):
    """σ² within 25 % of the smoothed x²."""
    measured, predicted = variances(runs["gd"])
    yield Claim("steps with one critical eigenvalue", len(predicted), low=2 * definitions.WINDOW)
    yield Claim(
        "σ² over smoothed x², median", median_ratio(definitions.smoothed(measured), predicted), 0.75, 1.25
    )
