"""Progressive sharpening vanishes with the width, as the tangent kernel becomes constant."""

import numpy as np

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels
from cflow_cli.figures.measuring import until

CAPTION = """
Networks in the NTK parametrisation, trained by gradient descent until L = 0.01. (a) Sharpness along training over that
at the start, one hidden layer, a colour for each width, all seeds. (b) How much it has changed by the end, against the
width: small dots are seeds, lines their medians; dotted: 1/√m.
"""
FITTED = 0.01
DEPTHS = {
    "one": ("1 hidden layer", ["model.depth=2"]),
    "three": ("3 hidden layers", ["model.depth=4", "lr=2", "steps=60"]),
}
WIDTHS = {
    "one": {"mini": (32, 256, 2048), "paper": (32, 64, 128, 256, 512, 1024, 2048)},
    "three": {"mini": (16, 64, 256), "paper": (16, 32, 64, 128, 256, 512)},
}
SEEDS = {"mini": 3, "paper": 5}
SLOPE = Check("slope of |S_end/S_0 − 1| against the width, {each}", high=-0.5)


def runs(size):
    """Those of ``linearity`` with a linear output and no bottleneck."""
    return {
        f"{network}_{width}_{seed}": [
            "experiment=linearity",
            *overrides,
            f"model.width={width}",
            f"seed={seed}",
        ]
        for network, (_, overrides) in DEPTHS.items()
        for width in WIDTHS[network][size]
        for seed in range(SEEDS[size])
    }


def course(run):
    """Sharpness over that at the start, until the data is fitted."""
    loss, sharpness = run.series("discrete", "loss"), run.series("discrete", "effective_sharpness")
    fitted = loss.index[loss <= FITTED]
    return until(sharpness, fitted[0] if len(fitted) else loss.index[-1]) / sharpness.iloc[0]


def changes(runs, network):
    """Widths, |S_end/S_0 − 1| of each seed at each width, and the median over seeds."""
    table = {}
    for label, run in runs.items():
        name, width, _ = label.split("_")
        if name == network:
            table.setdefault(int(width), []).append(abs(course(run).iloc[-1] - 1))
    widths = np.array(sorted(table))
    each = np.array([table[width] for width in widths])
    return widths, each, np.median(each, axis=1)


def draw(**runs):
    """Draw the course of the sharpness, and its change against the width."""
    figure, axes = panels(
        1, 2, titles=("sharpness over that at the start", "its change at the end"), height=2.5
    )
    widths = changes(runs, "one")[0]
    for label, run in runs.items():
        network, width, seed = label.split("_")
        if network == "one":
            colour = SHADES[list(widths).index(int(width)) % len(SHADES)]
            values = course(run)
            look = {"label": f"m = {width}"} if seed == "0" else {}
            axes[0].plot(values.index, values, color=colour, linewidth=1, alpha=0.8, **look)
    for (network, (name, _)), colour in zip(DEPTHS.items(), SHADES):
        widths, each, middle = changes(runs, network)
        axes[1].plot(widths, each, ".", color=colour, markersize=3, alpha=0.6)
        axes[1].plot(widths, middle, color=colour, linewidth=1.2, label=name)
        axes[1].plot(widths, middle[0] * (widths / widths[0]) ** -0.5, ":", color="#777777")
    axes[1].set(xscale="log", yscale="log", xlabel="width m")
    for ax in axes:
        ax.legend(fontsize=6)
    return figure


def claims(**runs):
    """The change falls at least like one over the root of the width."""
    for network, (name, _) in DEPTHS.items():
        widths, _, middle = changes(runs, network)
        yield SLOPE(np.polyfit(np.log(widths), np.log(middle), 1)[0], name)
