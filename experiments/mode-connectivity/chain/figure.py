"""Two straight lines that meet in one trained point lead from one network to another without a barrier."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels

CAPTION = """
Between networks of three different initial weights: training loss (a) and test error (b) along straight lines (pale)
and along two lines that meet in a point, at t = ½, that was trained.
"""
EXCESS = Check(
    "{each pair}: loss on the chain above the larger end, over it",
    high=0.2,
    paper="largest train loss .27 with ends at .24 (VGG16, C10)",
)
SEEDS = (0, 1, 2)


def runs(size):
    """Three runs that differ in their initial weights only."""
    return {f"seed {seed}": [f"experiment=connectivity_{size}", f"seed={seed}"] for seed in SEEDS}


def paths(size):
    """All curves between each two."""
    options = {"kind": "line,bezier,chain", "steps": 300 if size == "mini" else 2000}
    return {f"pair {a}": (f"seed {a}", f"seed {(a + 1) % len(SEEDS)}", options) for a in SEEDS}


def draw(**found):
    """Draw losses and test errors."""
    figure, axes = panels(1, 2, height=2.1, titles=("training loss", "test error"))
    for number in SEEDS:
        path = found[f"pair {number}"]
        for kind, look in (
            ("line", {"alpha": 0.35}),
            ("chain", {"label": f"seeds {number}, {(number + 1) % 3}"}),
        ):
            loss, accuracy = path.loss(kind), path.loss(kind, "test_accuracy")
            axes[0].plot(loss.index, loss, color=SHADES[number], **look)
            axes[1].plot(accuracy.index, 1 - accuracy, color=SHADES[number], **look)
    axes[0].set_yscale("log")
    axes[0].legend()
    axes[1].set_ylim(0)
    for ax in axes:
        ax.set_xlabel("t")
    return figure


def claims(**found):
    """The largest loss on each chain."""
    for number in SEEDS:
        path = found[f"pair {number}"]
        yield EXCESS(path["chain"]["excess"] / path.end_loss, f"seeds {number} and {(number + 1) % 3}")
