"""The tangent kernel has no edge of stability: above its limit the linearised network diverges, the real one trains."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import flow, panels, raw, threshold
from cflow_cli.report import definitions

CAPTION = """
Gradient descent (blue) and the network linearised at its start (purple), at a learning rate just below the limit
2/λ_max of the linearised network and at one 1.27 times above: training loss (left) and effective sharpness (right). The
linearised network's never changes; the real one's comes down to 2.
"""
RATES = {"mini": {"below": 0.6, "above": 0.8}, "paper": {"below": 0.018, "above": 0.024}}
BELOW = Check("below the limit, linearised network: loss at the end over that at the start", high=0.5)
GROWS = Check("above the limit, linearised network: loss at its last step over that at the start", low=1e3)
TRAINS = Check("above the limit, real network: loss at the end", high=0.1)


def runs(size):
    """A run below and one above the limit."""
    own = [f"experiment=linear_{size}", "processes=[discrete,midpoint,linear]"]
    own += ["steps=120"] * (size == "mini")
    return {label: [*own, f"lr={rate}"] for label, rate in RATES[size].items()}


def draw(**runs):
    """Draw loss and sharpness at either rate."""
    shown = ("training loss", "effective sharpness")
    titles = [f"{what}, η = {run.lr:g}" for run in runs.values() for what in shown]
    figure, axes = panels(2, 2, titles=titles, sharex=True)
    for place, run in enumerate(runs.values()):
        loss, sharpness = axes[2 * place : 2 * place + 2]
        raw(loss, run.series("discrete", "loss"), "midpoint", linewidth=1.2, label="gradient descent")
        flow(loss, run.series("linear", "loss"), "linear", label=definitions.words("linear"))
        loss.set_yscale("log")
        raw(sharpness, run.series("midpoint", "effective_sharpness"), "midpoint", linewidth=1.2)
        flow(sharpness, run.series("linear", "effective_sharpness"), "linear", marker=".", markersize=3)
        threshold(sharpness, 2)
        sharpness.set_ylim(0, 4)
    axes[0].legend()
    return figure


def claims(below, above):
    """Both converge below; above only the real network does."""

    def growth(run):
        loss = run.series("linear", "loss")
        return loss.iloc[-1] / loss.iloc[0]

    yield BELOW(growth(below))
    yield GROWS(growth(above))
    yield TRAINS(above.series("discrete", "loss").iloc[-1])
