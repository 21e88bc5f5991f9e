"""Progressive sharpening vanishes with the width, as the tangent kernel becomes constant."""

from cflow_cli.figures import widths
from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels
from cflow_cli.figures.measuring import until

CAPTION = """
Networks in the NTK parametrisation, trained by gradient descent until L = 0.01. (a) Sharpness along training over that
at the start, one hidden layer, a colour for each width, all seeds. (b) How much it has changed by the end, against the
width: small dots are seeds, lines their medians; dotted: 1/√m.
"""
DEPTHS = {"one": widths.ONE, "three": widths.THREE}
WIDTHS = {"one": widths.SHALLOW, "three": widths.DEEP}
SLOPE = Check("slope of |S_end/S_0 − 1| against the width, {each}", high=-0.5)


def runs(size):
    """Those of ``linearity`` with a linear output and no bottleneck."""
    return widths.runs(DEPTHS, WIDTHS, size)


def course(run):
    """Sharpness over that at the start, until the data is fitted."""
    sharpness = run.series("discrete", "effective_sharpness")
    return until(sharpness, widths.end(run)) / sharpness.iloc[0]


def change(run):
    """|S_end/S_0 − 1|."""
    return abs(course(run).iloc[-1] - 1)


def draw(**runs):
    """Draw the course of the sharpness, and its change against the width."""
    figure, axes = panels(
        1, 2, titles=("sharpness over that at the start", "its change at the end"), height=2.5
    )
    m = widths.medians(runs, "one", change)[0]
    for label, run in runs.items():
        network, width, seed = label.split("_")
        if network == "one":
            colour = SHADES[list(m).index(int(width)) % len(SHADES)]
            values = course(run)
            look = {"label": f"m = {width}"} if seed == "0" else {}
            axes[0].plot(values.index, values, color=colour, linewidth=1, alpha=0.8, **look)
    for (network, (name, _)), colour in zip(DEPTHS.items(), SHADES):
        m, each, middle = widths.medians(runs, network, change)
        axes[1].plot(m, each, ".", color=colour, markersize=3, alpha=0.6)
        axes[1].plot(m, middle, color=colour, linewidth=1.2, label=name)
        axes[1].plot(m, middle[0] * (m / m[0]) ** -0.5, ":", color="#777777")
    axes[1].set(xscale="log", yscale="log", xlabel="width m")
    for ax in axes:
        ax.legend(fontsize=6)
    return figure


def claims(**runs):
    """The change falls at least like one over the root of the width."""
    for network, (name, _) in DEPTHS.items():
        m, _, middle = widths.medians(runs, network, change)
        yield SLOPE(widths.slope(m, middle), name)
