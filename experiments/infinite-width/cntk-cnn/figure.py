"""A trained convolutional network beside the tangent kernel of the same network, infinitely wide."""

import numpy as np

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels

CAPTION = """
Convolutional networks with the output layer on the mean over pixels, trained by Adam on three disjoint sets of images:
training loss (a), test accuracy against the step (b, lines) with that of regression with the tangent kernel of the
same network with infinitely many channels (dashed). Colours: sets.
"""
TITLES = ("training loss", "test accuracy, %")
SETS = 3
DEPTH = 4
GAIN = Check(
    "depth 4: accuracy of the network less that of its kernel, in points, mean over sets",
    -8,
    12,
    paper="5.0 at depth 4 (80.93 − 75.93), 6 at the best depths",
)
FITS = Check("training accuracy of the network, smallest of the sets", low=0.99)


def skips(size):
    """Images of each class that each set leaves out, so that no two share one."""
    return [place * {"mini": 40, "paper": 100}[size] for place in range(SETS)]


def runs(size):
    """A network for each set."""
    return {
        f"network {place}": [f"experiment=cntk_cnn_{size}", f"data.skip={skip}"]
        for place, skip in enumerate(skips(size))
    }


def kernels(size):
    """The kernel for each set: those of cntk-gap."""
    return {
        f"kernel {place}": [f"experiment=cntk_{size}", f"data.skip={skip}"]
        for place, skip in enumerate(skips(size))
    }


def of_kernel(kernel):
    """Test accuracy of regression with the tangent kernel of that depth, in percent."""
    rows = kernel.table
    rows = rows[(rows["kind"] == "ntk") & (rows["readout"] == "gap") & (rows["depth"] == DEPTH)]
    return 100 * float(rows["test_accuracy"].iloc[0])


def of_network(run):
    """Test accuracy in percent against the step."""
    return 100 * run.series("discrete", "test_accuracy").dropna()


def draw(**found):
    """Draw the losses, and the accuracies with those of the kernels."""
    figure, (loss, accuracy) = panels(1, 2, height=2.2, titles=TITLES)
    for place, colour in zip(range(SETS), SHADES):
        run, kernel = (found[f"{kind} {place}"] for kind in ("network", "kernel"))
        values = run.series("discrete", "loss")
        loss.plot(values.index, values, color=colour, linewidth=1)
        values = of_network(run)
        accuracy.plot(values.index, values, color=colour, linewidth=1.2, label=f"set {place + 1}")
        accuracy.axhline(of_kernel(kernel), color=colour, linewidth=1, linestyle="--")
    loss.set_yscale("log")
    for ax in (loss, accuracy):
        ax.set_xlabel("step of Adam")
    accuracy.legend()
    return figure


def claims(**found):
    """The difference of accuracies at the end, and that the networks have been trained."""
    gains, fits = [], []
    for place in range(SETS):
        run, kernel = (found[f"{kind} {place}"] for kind in ("network", "kernel"))
        gains.append(of_network(run).iloc[-1] - of_kernel(kernel))
        fits.append(run.series("discrete", "accuracy").dropna().iloc[-1])
    yield GAIN(float(np.mean(gains)))
    yield FITS(min(fits))
