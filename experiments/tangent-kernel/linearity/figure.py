"""A wide network becomes linear in its weights, unless its output or a bottleneck prevents it."""

import numpy as np

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
FITTED = 0.01
# Network -> its name and overrides; rates are about half of the largest that is stable at the start.
QUICK = ["steps=48", "measurements.tangent_kernel.every=2"]
NETWORKS = {
    "one": ("1 hidden layer", ["model.depth=2"]),
    "three": ("3 hidden layers", ["model.depth=4", "lr=2", "steps=60"]),
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
SHALLOW = {"mini": (32, 256, 2048), "paper": (32, 64, 128, 256, 512, 1024, 2048)}
DEEP = {"mini": (16, 64, 256), "paper": (16, 32, 64, 128, 256, 512)}
WIDTHS = {"one": SHALLOW, "three": DEEP, "tanh": SHALLOW, "bottleneck": DEEP}
SEEDS = {"mini": 3, "paper": 5}

HESSIAN = Check("slope of ‖∇²f‖ against the width, {each}", -0.55, -0.38, "−1/2 but for logarithms (theorem)")
DIVIDED = Check("slope of ‖∇²f‖/√ln m, {one hidden layer}", -0.55, -0.45, "−1/2 (theorem)")
CHANGE = Check("slope of the kernel's largest change, {each}", high=-0.5, paper="at most −1/2 (theorem)")
NO_HESSIAN = Check("slope of ‖∇²f‖ against the width, {each exception}", -0.2, 0.3, "0")
NO_CHANGE = Check("slope of the kernel's largest change, {each exception}", -0.2, 0.3, "0")
WIDEST = Check("kernel's change at the widest, tanh output over linear", low=10)
FITS = Check("training loss where the run is taken to end, largest of {each}", high=FITTED)


def runs(size):
    """Every network at every width and seed; labels name all three."""
    return {
        f"{network}_{width}_{seed}": [
            "experiment=linearity",
            *overrides,
            f"model.width={width}",
            f"seed={seed}",
        ]
        for network, (_, overrides) in NETWORKS.items()
        for width in WIDTHS[network][size]
        for seed in range(SEEDS[size])
    }


def end(run):
    """Step at which the loss is first at most that wanted; the last one where it never is."""
    loss = run.series("discrete", "loss")
    fitted = loss.index[loss <= FITTED]
    return int(fitted[0] if len(fitted) else loss.index[-1])


def medians(runs, network, value):
    """Widths, the value of each seed at each width, and the median over seeds."""
    table = {}
    for label, run in runs.items():
        name, width, _ = label.split("_")
        if name == network:
            table.setdefault(int(width), []).append(value(run))
    widths = np.array(sorted(table))
    each = np.array([table[width] for width in widths])
    return widths, each, np.median(each, axis=1)


def hessian(run):
    """‖∇²f‖ at the start."""
    return run.series("discrete", "output_hessian").iloc[0]


def change(run):
    """The largest change of the kernel until the data is fitted, to the first measurement that is not before that."""
    changes = run.series("discrete", "kernel_change")
    return until(changes, changes.index[changes.index >= end(run)].min()).max()


def slope(widths, values):
    """Exponent of a power law, by least squares of the logarithms."""
    return np.polyfit(np.log(widths), np.log(values), 1)[0]


def draw(**runs):
    """Draw both quantities against the width, a colour for each network."""
    figure, axes = panels(
        1, 2, titles=("output Hessian ‖∇²f‖ at the start", "largest change of the kernel"), height=2.5
    )
    for (network, (name, _)), colour in zip(NETWORKS.items(), SHADES):
        for ax, value in zip(axes, (hessian, change)):
            widths, each, middle = medians(runs, network, value)
            ax.plot(widths, each, ".", color=colour, markersize=3, alpha=0.6)
            ax.plot(widths, middle, color=colour, linewidth=1.2, label=name)
    for ax, value in zip(axes, (hessian, change)):
        widths, _, middle = medians(runs, "one", value)
        ax.plot(widths, middle[0] * (widths / widths[0]) ** -0.5, ":", color="#777777", label="1/√m")
        ax.set(xscale="log", yscale="log", xlabel="width m")
    axes[0].legend(fontsize=6)
    return figure


def claims(**runs):
    """Both fall with the width for linear outputs, and for the exceptions neither."""
    for network in ("one", "three"):
        name = NETWORKS[network][0]
        widths, _, norms = medians(runs, network, hessian)
        yield HESSIAN(slope(widths, norms), name)
        if network == "one":
            yield DIVIDED(slope(widths, norms / np.sqrt(np.log(widths))), name)
        yield CHANGE(slope(widths, medians(runs, network, change)[2]), name)
    for network in ("tanh", "bottleneck"):
        name = NETWORKS[network][0]
        for check, value in ((NO_HESSIAN, hessian), (NO_CHANGE, change)):
            widths, _, middle = medians(runs, network, value)
            yield check(slope(widths, middle), name)
    yield WIDEST(medians(runs, "tanh", change)[2][-1] / medians(runs, "one", change)[2][-1])
    for network, (name, _) in NETWORKS.items():
        yield FITS(
            medians(runs, network, lambda run: run.series("discrete", "loss")[end(run)])[1].max(), name
        )
