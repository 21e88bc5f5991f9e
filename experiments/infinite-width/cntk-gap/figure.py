"""A mean over pixels before the output layer makes the kernel of a wide convolutional network more accurate."""

import numpy as np

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels

CAPTION = """
Test accuracy of regression with the tangent kernel of an infinitely wide convolutional network against its depth (a):
with its output layer on the mean over pixels (blue, GAP) and on all pixels (red); and how much more accurate the first
is (b). Thin: disjoint sets of training images; wide: their mean; grey: no difference.
"""
READOUTS = {"gap": "mean over pixels", "flatten": "all pixels"}
SETS = 3
GAIN = Check(
    "at depth 3: accuracy with the mean over pixels less that with all, in points", low=3, paper="6.0"
)
DEEPEST = Check("{at the deepest}: the same difference", low=0, paper="10.4 at depth 4, 13.0 at depth 21")


def sets(size):
    """Images of each class that each set leaves out, so that no two share one."""
    return [place * {"mini": 40, "paper": 100}[size] for place in range(SETS)]


def runs(size):
    """None: nothing is trained."""
    return {}


def kernels(size):
    """One kernel for each set; it has both readouts at every depth."""
    return {f"set {skip}": [f"experiment=cntk_{size}", f"data.skip={skip}"] for skip in sets(size)}


def accuracies(kernels, readout):
    """Test accuracies in percent: a row per set, a column per depth from 2 on."""
    found = []
    for kernel in kernels.values():
        rows = kernel.table
        rows = rows[(rows["kind"] == "ntk") & (rows["readout"] == readout) & (rows["depth"] > 1)]
        found.append(100 * rows.set_index("depth")["test_accuracy"])
    return np.array(found), found[0].index.to_numpy()


def draw(**kernels):
    """Draw accuracies and their differences against depth."""
    titles = ("test accuracy, %", "difference, points")
    figure, (left, right) = panels(1, 2, height=2.2, titles=titles)
    found = {readout: accuracies(kernels, readout) for readout in READOUTS}
    for colour, (readout, (values, depths)) in zip(SHADES, found.items()):
        left.plot(depths, values.T, color=colour, linewidth=0.6, alpha=0.6)
        left.plot(depths, values.mean(0), color=colour, linewidth=2, marker="o", label=READOUTS[readout])
    gain = found["gap"][0] - found["flatten"][0]
    depths = found["gap"][1]
    right.plot(depths, gain.T, color=SHADES[2], linewidth=0.6, alpha=0.6)
    right.plot(depths, gain.mean(0), color=SHADES[2], linewidth=2, marker="o")
    right.axhline(0, color="#999999", linewidth=0.6, zorder=0)
    for ax in (left, right):
        ax.set_xlabel("depth (linear layers)")
        ax.set_xticks(depths)
    left.legend()
    return figure


def claims(**kernels):
    """The mean over sets of the difference, at depth 3 and at the deepest."""
    (gap, depths), (flat, _) = (accuracies(kernels, readout) for readout in READOUTS)
    gain = dict(zip(depths, (gap - flat).mean(0)))
    yield GAIN(gain[3])
    deepest = max(depths)
    yield DEEPEST(gain[deepest], f"at depth {deepest}")
