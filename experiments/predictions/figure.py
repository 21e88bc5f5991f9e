"""The central flow passes through the mean of the network's oscillating outputs [part 1]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import edge_step, finish, flow, mean, panels, raw, since, spectrum
from cflow_cli.report import definitions

CAPTION = """
Outputs of the network for three training examples (rows) and four classes (columns): at the iterates of gradient
descent (pale), their mean over 50 steps (wide), along the central flow (black) and along gradient flow (dashed).
"""
EXAMPLES, CLASSES = 3, 4


def runs(size):
    """Part 1's run."""
    return {"gd": [f"experiment=gd_{size}"]}


def places(run):
    """Indices of the outputs that are shown."""
    each = spectrum(run, "discrete", "output").shape[1] // EXAMPLES
    return [example * each + output for example in range(EXAMPLES) for output in range(min(CLASSES, each))]


def draw(runs):
    """Draw a grid of outputs."""
    run = runs["gd"]
    tables = {process: spectrum(run, process, "output") for process in ("discrete", "stable", "central")}
    figure, axes = panels(EXAMPLES, CLASSES, height=1.3, sharex=True, sharey=True)
    for number, (ax, place) in enumerate(zip(axes, places(run))):
        raw(ax, tables["discrete"][place])
        mean(ax, tables["discrete"][place], label="gradient descent")
        flow(ax, tables["stable"][place], "stable", linewidth=0.8, label="gradient flow")
        flow(ax, tables["central"][place], label="central flow")
        if number < CLASSES:
            ax.set_title(f"class {number}")
        if number % CLASSES == 0:
            ax.set_ylabel(f"example {number // CLASSES}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return finish(figure)


def claims(runs):
    """Flow and mean differ by a few per cent of the range of the output, for all of them."""
    run = runs["gd"]
    real, central = (spectrum(run, process, "output") for process in ("discrete", "central"))
    errors, far = [], []
    for place in places(run):
        smooth = definitions.smoothed(real[place])
        scale = smooth.max() - smooth.min()
        after = since(smooth, edge_step(run))
        errors.append((after - central[place]).abs().median() / scale)
        far.append((after - spectrum(run, "stable", "output")[place]).abs().median() / scale)
    yield Claim(
        "|flow − mean| over the range of the output, median, largest of all outputs", max(errors), high=0.05
    )
    yield Claim("the same for gradient flow over it, mean of all outputs", sum(far) / sum(errors), low=2)
