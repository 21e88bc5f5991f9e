"""The tangent kernel at the start comes nearer to that of infinite width as width^(−1/2)."""

import numpy as np

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels

CAPTION = """
Distance ‖Θ_N − Θ_∞‖/‖Θ_∞‖ of the tangent kernel of a network of width N at its start from that of the infinitely wide
network, in the tangent parametrisation: points are initial weights, lines fits to the logarithms of their means.
"""
WIDTHS = {"mini": (32, 64, 128, 256, 512, 1024, 2048), "paper": (32, 64, 128, 256, 512, 1024, 2048, 4096)}
ACTIVATIONS = ("gelu", "relu")
# Of initial weights; fewer where each takes seconds.
SEEDS, FEW, WIDE = 10, 4, 2048
SLOPE = Check("{activation}: slope of log distance against log width", -0.6, -0.4, paper="−1/2")


def runs(size):
    """None: nothing is trained."""
    return {}


def kernels(size):
    """For each width and activation the kernel of infinite width and those of some initialisations."""
    return {
        f"{activation} {width}": [
            f"experiment=ntk_width_{size}",
            f"model.activation={activation}",
            f"model.width={width}",
            "kernel.kinds=[ntk,empirical]",
            f"kernel.seeds={FEW if width >= WIDE else SEEDS}",
        ]
        for activation in ACTIVATIONS
        for width in WIDTHS[size]
    }


def distances(kernels, activation):
    """Widths, and the distances of all initialisations at each."""
    found = {}
    for label, kernel in kernels.items():
        own, width = label.split()
        if own == activation:
            found[int(width)] = kernel.table["distance"].dropna().to_numpy()
    return np.array(list(found)), list(found.values())


def fit(widths, distances):
    """Slope and intercept of the logarithms."""
    return np.polyfit(np.log(widths), np.log([each.mean() for each in distances]), 1)


def draw(**kernels):
    """Draw distances against width."""
    figure, (ax,) = panels(1, 1, height=2.4, titles=("distance from the kernel of infinite width",))
    for colour, activation in zip(SHADES, ACTIVATIONS):
        widths, values = distances(kernels, activation)
        slope, intercept = fit(widths, values)
        for width, each in zip(widths, values):
            ax.plot([width] * len(each), each, "o", color=colour, markersize=2.5, alpha=0.5)
        line = np.exp(intercept) * widths**slope
        ax.plot(widths, line, color=colour, label=f"{activation}, slope {slope:.2f}")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xticks(widths, [f"{width}" for width in widths])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("width of both hidden layers")
    ax.legend()
    return figure


def claims(**kernels):
    """The slope of each activation."""
    for activation in ACTIVATIONS:
        yield SLOPE(fit(*distances(kernels, activation))[0], activation)
