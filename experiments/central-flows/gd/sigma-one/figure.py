"""The central flow predicts the variance of the oscillation: one critical eigenvalue."""

import numpy as np

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import flow, mean, panels, raw
from cflow_cli.figures.measuring import median_ratio
from cflow_cli.report import smoothing

CAPTION = """
Squared displacement x² of gradient descent from the central flow along its critical eigenvector while there is one
(pale), its mean over 50 steps (wide), and the variance σ² that the central flow predicts (black).
"""
LENGTH = Check("steps with one critical eigenvalue", low=2 * smoothing.WINDOW)
RATIO = Check("σ² over smoothed x², median", 0.75, 1.25, paper="σ² from 0.005 to 0.010")


def runs(size):
    """A run that has one critical eigenvalue for long: that of part 1 at full size, at mini one of a single output."""
    return {"gd": ["experiment=gd_one_mini" if size == "mini" else "experiment=gd_paper"]}


def variances(run):
    """x² and σ² in units of weight², from the edge to the entry of a second eigenvalue, or the end."""
    critical = run.series("central", "num_critical")
    several = critical[(critical.index > run.edge) & (critical >= 2)]
    end = several.index[0] - 1 if len(several) else critical.index[-1]
    # Recorded in the D^-1 norm, and D = η here.
    return [
        run.spectrum("central", kind)[0].loc[run.edge : end] * run.lr for kind in ("sigma_measured", "sigma")
    ]


def draw(gd):
    """Draw x², its mean, and σ²."""
    measured, predicted = variances(gd)
    figure, (ax,) = panels(1, 1, height=2.4)
    raw(ax, measured, label="x²")
    mean(ax, measured, label="x², mean")
    flow(ax, predicted, label="σ²")
    ax.set_ylim(0, 2.5 * np.nanmax(smoothing.smoothed(measured)))
    ax.set_ylabel("squared displacement")
    ax.legend()
    return figure


def claims(gd):
    """σ² within 25 % of the smoothed x²."""
    measured, predicted = variances(gd)
    yield LENGTH(len(predicted))
    yield RATIO(median_ratio(smoothing.smoothed(measured), predicted))
