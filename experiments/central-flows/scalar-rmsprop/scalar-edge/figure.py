"""Scalar RMSProp oscillates without diverging, and its effective sharpness stays around 2."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels, raw, threshold, trend
from cflow_cli.figures.measuring import late_mean, since

CAPTION = """
Scalar RMSProp, every iterate (pale blue) and its second-order midpoints or 50-step mean (dark blue): training
loss (a), squared gradient norm with its moving average ν (orange) (b), for three training examples the
network's output that is the largest at the end (c), sharpness of the loss, λ_max(H) (d), effective sharpness
(η/√ν)·λ_max(H) with the edge of stability at 2 (e), and the displacement of the iterates w from the central
flow w̄ along the first critical direction u (f). Spikes of the gradient raise ν, which lowers the effective
sharpness below 2, while the sharpness itself goes on rising.
"""
ANIMATED = True
EXAMPLES = 3
TITLES = (
    *("training loss", "squared gradient norm", "network outputs"),
    *("sharpness λ_max(H)", "effective sharpness", "displacement uᵀD$^{−½}$(w − w̄)"),
)
START = Check("effective sharpness at the start, over 2", high=0.7)
LARGEST = Check("its largest value, over 2", low=1.05, paper="1.75")
EDGE = Check("its mean over the last half after reaching 2, over 2", 0.95, 1.05, paper="1")
SHARPNESS = Check("sharpness at the end over that where 2 is reached", low=1.5, paper="rises from 3 to 92")


def runs(size):
    """Part 2's run."""
    return {"run": [f"experiment=scalar_{size}"]}


def draw(run):
    """Draw what happens to the optimizer."""
    figure, axes = panels(2, 3, titles=TITLES)
    loss, gradient = run.series("discrete", "loss"), run.series("discrete", "grad_norm_sq")
    raw(axes[0], loss)
    trend(axes[0], loss, linewidth=1.2)
    raw(axes[1], gradient, label="‖∇L‖²")
    nu = run.second_moment("discrete")
    axes[1].plot(nu.index, nu, color=SHADES[1], label="ν")
    axes[1].set_yscale("log")
    axes[1].set_ylim(top=10 * gradient.max())
    axes[1].legend(ncols=2, loc="upper left")
    outputs = run.spectrum("discrete", "output")
    each = outputs.shape[1] // EXAMPLES
    for example, colour in zip(range(EXAMPLES), SHADES):
        own = outputs[range(each * example, each * (example + 1))]
        raw(axes[2], own[own.iloc[-1].idxmax()], color=colour, alpha=1, label=f"example {example + 1}")
    axes[2].legend(loc="lower right")
    for ax, column in ((axes[3], "sharpness"), (axes[4], "effective_sharpness")):
        raw(ax, run.series("discrete", column))
        middle = run.series("midpoint", column)
        ax.plot(middle.index, middle, color="#0072B2")
    threshold(axes[4], 2)
    axes[4].set_ylim(0, 1.1 * run.series("discrete", "effective_sharpness").max())
    raw(axes[5], run.spectrum("central", "displacement")[0], alpha=1)
    for ax in axes:
        ax.set_xlim(0, loss.index[-1])
    return figure


def claims(run):
    """The effective sharpness starts below 2, overshoots, and equilibrates at 2 while the sharpness rises."""
    effective = run.series("midpoint", "effective_sharpness")
    sharpness = since(run.series("midpoint", "sharpness"), run.edge)
    yield START(effective.iloc[0] / 2)
    yield LARGEST(effective.max() / 2)
    yield EDGE(late_mean(effective, run.edge) / 2)
    yield SHARPNESS(sharpness.iloc[-1] / sharpness.iloc[0])
