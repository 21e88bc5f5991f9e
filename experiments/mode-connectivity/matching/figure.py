"""Once the hidden units of two networks are in the same order, the barrier between them is lower."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels

CAPTION = """
Training loss (a) and test error (b) along the straight lines between networks of three different initial weights: as
they are (pale), and after the hidden units of one end were put in the order in which its weights are nearest to those
of the other.
"""
LOWER = Check(
    "{each pair}: barrier with matched units over that without", high=0.6, paper="→ 0 for wide networks"
)
SEEDS = (0, 1, 2)


def runs(size):
    """Three runs that differ in their initial weights only."""
    return {f"seed {seed}": [f"experiment=connectivity_{size}", f"seed={seed}"] for seed in SEEDS}


def paths(size):
    """Lines between each two, as they are and matched."""
    options = {"kind": "line,bezier,chain", "steps": 300 if size == "mini" else 2000}
    ends = {number: (f"seed {number}", f"seed {(number + 1) % len(SEEDS)}") for number in SEEDS}
    return {
        **{f"pair {number}": (*pair, options) for number, pair in ends.items()},
        **{f"matched {number}": (*pair, {"kind": "line", "match": True}) for number, pair in ends.items()},
    }


def draw(**found):
    """Draw loss and test error along the lines."""
    figure, axes = panels(1, 2, height=2.1, titles=("training loss", "test error"))
    for number in SEEDS:
        for label, look in (
            (f"pair {number}", {"alpha": 0.35}),
            (f"matched {number}", {"label": f"seeds {number}, {(number + 1) % 3}, matched"}),
        ):
            loss, accuracy = found[label].loss(), found[label].loss("line", "test_accuracy")
            axes[0].plot(loss.index, loss, color=SHADES[number], **look)
            axes[1].plot(accuracy.index, 1 - accuracy, color=SHADES[number], **look)
    for ax in axes:
        ax.set_ylim(0)
        ax.set_xlabel("t")
    axes[0].legend()
    return figure


def claims(**found):
    """How much lower each barrier becomes."""
    for number in SEEDS:
        before, after = (found[f"{word} {number}"]["line"]["barrier"] for word in ("pair", "matched"))
        yield LOWER(after / before, f"seeds {number} and {(number + 1) % 3}")
