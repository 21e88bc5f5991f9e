"""A wide network becomes linear in its weights, unless its output or a bottleneck prevents it."""

import numpy as np

from cflow_cli.figures import widths
from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels
from cflow_cli.figures.measuring import until

CAPTION = """
Networks of growing width in the NTK parametrisation, trained by gradient descent until L = 0.01: spectral norm of the
Hessian of the output at the start (a), and the largest relative change of the tangent kernel on the way (b). Small
dots: single seeds; lines: their medians. With a linear output both fall with the width, the kernel's change faster
than the bound 1/√m (dotted); with a tanh output, or a middle layer of one unit, neither does, and the networks fit the
data all the same.
"""
# Rates are about half of the largest that is stable at the start.
QUICK = ["steps=48", "measurements.tangent_kernel.every=2"]
NETWORKS = {
    "one": widths.ONE,
    "three": widths.THREE,
    # Outputs ±1 at tanh = ±0.8, which the weights can reach.
    "tanh": (
        "1 hidden layer, tanh output",
        ["model.depth=2", "model.output=tanh", "model.output_scale=1.25", "lr=1.5", *QUICK],
    ),
    "bottleneck": (
        "3 hidden layers, bottleneck 1",
        ["model.depth=4", "model.bottleneck=1", "lr=1.2", *QUICK],
    ),
}
WIDTHS = {
    "one": widths.SHALLOW,
    "three": widths.DEEP,
    "tanh": widths.SHALLOW,
    "bottleneck": widths.DEEP,
}

HESSIAN = Check("slope of ‖∇²f‖ against the width, {each}", -0.55, -0.38, "−1/2 but for logarithms (theorem)")
DIVIDED = Check("slope of ‖∇²f‖/√ln m, {one hidden layer}", -0.55, -0.45, "−1/2 (theorem)")
CHANGE = Check("slope of the kernel's largest change, {each}", high=-0.5, paper="at most −1/2 (theorem)")
NO_HESSIAN = Check("slope of ‖∇²f‖ against the width, {each exception}", -0.2, 0.3, "0")
NO_CHANGE = Check("slope of the kernel's largest change, {each exception}", -0.2, 0.3, "0")
WIDEST = Check("kernel's change at the widest, tanh output over linear", low=10)
FITS = Check("training loss where the run is taken to end, largest of {each}", high=widths.FITTED)


def runs(size):
    """Every network at every width and seed."""
    return widths.runs(NETWORKS, WIDTHS, size)


def hessian(run):
    """‖∇²f‖ at the start."""
    return run.series("discrete", "output_hessian").iloc[0]


def change(run):
    """The largest change of the kernel until the data is fitted, to the first measurement that is not before that."""
    changes = run.series("discrete", "kernel_change")
    return until(changes, changes.index[changes.index >= widths.end(run)].min()).max()


def draw(**runs):
    """Draw both quantities against the width, a colour for each network."""
    figure, axes = panels(
        1, 2, titles=("output Hessian ‖∇²f‖ at the start", "largest change of the kernel"), height=2.5
    )
    for (network, (name, _)), colour in zip(NETWORKS.items(), SHADES):
        for ax, value in zip(axes, (hessian, change)):
            m, each, middle = widths.medians(runs, network, value)
            ax.plot(m, each, ".", color=colour, markersize=3, alpha=0.6)
            ax.plot(m, middle, color=colour, linewidth=1.2, label=name)
    for ax, value in zip(axes, (hessian, change)):
        m, _, middle = widths.medians(runs, "one", value)
        ax.plot(m, middle[0] * (m / m[0]) ** -0.5, ":", color="#777777", label="1/√m")
        ax.set(xscale="log", yscale="log", xlabel="width m")
    axes[0].legend(fontsize=6)
    return figure


def claims(**runs):
    """Both fall with the width for linear outputs, and for the exceptions neither."""
    for network in ("one", "three"):
        name = NETWORKS[network][0]
        m, _, norms = widths.medians(runs, network, hessian)
        yield HESSIAN(widths.slope(m, norms), name)
        if network == "one":
            yield DIVIDED(widths.slope(m, norms / np.sqrt(np.log(m))), name)
        yield CHANGE(widths.slope(m, widths.medians(runs, network, change)[2]), name)
    for network in ("tanh", "bottleneck"):
        name = NETWORKS[network][0]
        for check, value in ((NO_HESSIAN, hessian), (NO_CHANGE, change)):
            m, _, middle = widths.medians(runs, network, value)
            yield check(widths.slope(m, middle), name)
    at_widest = [widths.medians(runs, network, change)[2][-1] for network in ("tanh", "one")]
    yield WIDEST(at_widest[0] / at_widest[1])
    for network, (name, _) in NETWORKS.items():
        losses = widths.medians(runs, network, lambda run: run.series("discrete", "loss")[widths.end(run)])[1]
        yield FITS(losses.max(), name)
