"""The kernel of a wide convolutional network is more accurate than that of a wide fully connected one."""

import numpy as np

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels

CAPTION = """
Test accuracy of regression with kernels of infinitely wide networks against their depth: the tangent kernels of a
convolutional network with the mean over its pixels (blue) and of a fully connected one (red), and the NNGP kernel of
the first (green, dashed). Thin: disjoint sets of training images; wide: their mean.
"""
SETS = 3
LOOKS = {
    "convolutional, tangent kernel": ("conv", "ntk", "gap", {"color": SHADES[0]}),
    "convolutional, NNGP": ("conv", "nngp", "gap", {"color": SHADES[2], "linestyle": "--"}),
    "fully connected, tangent kernel": ("full", "ntk", "dense", {"color": SHADES[1]}),
}
NETWORKS = ("convolutional", "fully connected")
GAIN = Check(
    "depth 3: accuracy of the convolutional network's tangent kernel less that of the fully connected one's, in points",
    low=0,
)


def runs(size):
    """None: nothing is trained."""
    return {}


def kernels(size):
    """For each set the kernels of both networks; the first are those of cntk-gap."""
    return {
        f"{net} {place}": [
            f"experiment=cntk_{size}",
            *words,
            f"data.skip={place * {'mini': 40, 'paper': 100}[size]}",
        ]
        for net, words in (("conv", []), ("full", ["model=fc"]))
        for place in range(SETS)
    }


def accuracies(kernels, net, kind, readout):
    """Test accuracies in percent: a row per set, a column per depth from 2 on; and the depths."""
    found = []
    for label, kernel in kernels.items():
        if label.startswith(net):
            rows = kernel.table
            rows = rows[(rows["kind"] == kind) & (rows["readout"] == readout) & (rows["depth"] > 1)]
            found.append(100 * rows.set_index("depth")["test_accuracy"])
    return np.array(found), found[0].index.to_numpy()


def draw(**kernels):
    """Draw accuracies against depth."""
    figure, (ax,) = panels(1, 1, height=2.4, titles=("test accuracy, %",))
    for name, (net, kind, readout, look) in LOOKS.items():
        values, depths = accuracies(kernels, net, kind, readout)
        ax.plot(depths, values.T, linewidth=0.6, alpha=0.6, **look)
        ax.plot(depths, values.mean(0), linewidth=2, marker="o", label=name, **look)
    ax.set_xlabel("depth (linear layers)")
    ax.set_xticks(depths)
    ax.set_ylim(top=ax.get_ylim()[1] + 4)
    ax.legend()
    return figure


def claims(**kernels):
    """The mean over sets of the difference, at depth 3."""
    conv, full = (accuracies(kernels, *LOOKS[f"{name}, tangent kernel"][:3]) for name in NETWORKS)
    at = list(conv[1]).index(3)
    yield GAIN((conv[0] - full[0]).mean(0)[at])
