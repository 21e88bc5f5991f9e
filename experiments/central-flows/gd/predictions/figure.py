"""The central flow passes through the mean of the network's oscillating outputs."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import flow, panels, raw, trend
from cflow_cli.figures.measuring import since
from cflow_cli.report import smoothing

CAPTION = """
Outputs of the network for three training examples (rows) and four classes (columns): at the iterates of gradient
descent (pale), smoothed over 50 steps (wide), along the central flow (black) and along gradient flow (dashed).
"""
EXAMPLES, CLASSES = 3, 4
ERROR = Check("|flow − mean| over the range of the output, median, largest of all outputs", high=0.05)
WORSE = Check("the same for gradient flow over it, mean of all outputs", low=2)


def runs(size):
    """Part 1's run."""
    return {"gd": [f"experiment=gd_{size}"]}


def outputs(run):
    """Outputs of gradient descent, gradient flow and the central flow."""
    return (run.spectrum(process, "output") for process in ("discrete", "stable", "central"))


def places(real):
    """Indices of the outputs that are shown."""
    each = real.shape[1] // EXAMPLES
    return [example * each + output for example in range(EXAMPLES) for output in range(min(CLASSES, each))]


def draw(gd):
    """Draw a grid of outputs."""
    real, stable, central = outputs(gd)
    figure, axes = panels(EXAMPLES, CLASSES, height=1.3, sharex=True, sharey=True)
    for number, (ax, place) in enumerate(zip(axes, places(real))):
        raw(ax, real[place])
        trend(ax, real[place], label="gradient descent")
        flow(ax, stable[place], "stable", linewidth=0.8, label="gradient flow")
        flow(ax, central[place], label="central flow")
        if number < CLASSES:
            ax.set_title(f"class {number}", loc="center")
        if number % CLASSES == 0:
            ax.set_ylabel(f"example {number // CLASSES}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def claims(gd):
    """Flow and mean differ by a few per cent of the range of the output, for all of them."""
    real, stable, central = outputs(gd)
    errors, far = [], []
    for place in places(real):
        smooth = smoothing.smoothed(real[place])
        scale = smooth.max() - smooth.min()
        after = since(smooth, gd.edge)
        errors.append((after - central[place]).abs().median() / scale)
        far.append((after - stable[place]).abs().median() / scale)
    yield ERROR(max(errors))
    yield WORSE(sum(far) / sum(errors))
