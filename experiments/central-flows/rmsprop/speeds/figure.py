"""RMSProp's stationary preconditioner is fast, its first term alone would be faster still."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels
from cflow_cli.figures.measuring import since

CAPTION = """
Optimisation speed ∇LᵀP⁻¹∇L, the loss per step, along the central flow of RMSProp at three learning rates, for three
preconditioners P of the same weights: the stationary P̄ of RMSProp (blue), that of its first term alone, the least trace
with H ⪯ 2P (orange), and (S/2)I, the largest step gradient descent could take (green). From the edge of stability on.
"""
COLUMNS = {"speed_trace": "first term only", "speed_stationary": "stationary P̄", "speed_sharpness": "(S/2)I"}
COLOURS = dict(zip(COLUMNS, (SHADES[1], SHADES[0], SHADES[2])))
BEST = Check(
    "first term only over the better of the others at {each η}, least since the edge",
    low=1,
    paper="best everywhere",
)


def runs(size):
    """Part 3's run, and two at larger learning rates."""
    preset = f"experiment=rmsprop_{size}"
    if size == "mini":
        bare = ["processes=[discrete,central]", "eigs.every=50"]
        with_ablated = ["lr=0.001", "steps=400", "processes=[discrete,midpoint,central,ablated]"]
        others = [["lr=0.0006", "steps=400", *bare], with_ablated]
    else:
        others = [[f"lr={lr}", "processes=[discrete,central]"] for lr in ("4.0e-5", "1.0e-4")]
    return {"first": [preset]} | {
        name: [preset, *words] for name, words in zip(("second", "third"), others, strict=True)
    }


def speeds(run):
    """Each speed since the edge."""
    return {column: since(run.series("central", column), run.edge) for column in COLUMNS}


def draw(**runs):
    """Draw the speeds, a panel per learning rate."""
    titles = [f"η = {run.lr:g}" for run in runs.values()]
    figure, axes = panels(1, len(runs), titles=titles, height=2.1, sharey=True)
    for ax, run in zip(axes, runs.values()):
        for column, values in speeds(run).items():
            look = {"color": COLOURS[column], "linewidth": 1.2, "markersize": 3}
            ax.plot(values.index, values, ".-", label=COLUMNS[column], **look)
        ax.set_yscale("log")
    axes[0].set_ylabel("speed ∇LᵀP⁻¹∇L (loss per step)")
    axes[-1].legend()
    return figure


def claims(**runs):
    """The first term alone is best at every measurement, at each learning rate."""
    for run in runs.values():
        best, *rest = speeds(run).values()
        yield BEST(min((best / other).min() for other in rest), f"η = {run.lr:g}")
