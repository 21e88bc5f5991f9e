"""Scalar RMSProp oscillates without diverging, and its effective sharpness stays around 2 [part 2]."""

from cflow_cli.figures.claims import Claim
from cflow_cli.figures.drawing import (
    SHADES,
    edge_step,
    finish,
    mean,
    panels,
    raw,
    second_moment,
    series,
    since,
    spectrum,
    threshold,
)

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


def runs(size):
    """Part 2's run."""
    return {"run": [f"experiment=scalar_{size}"]}


def draw(runs):
    """Draw what happens to the optimizer."""
    run = runs["run"]
    figure, axes = panels(2, 3)
    loss, gradient = series(run, "discrete", "loss"), series(run, "discrete", "grad_norm_sq")
    raw(axes[0], loss)
    mean(axes[0], loss, linewidth=1.2)
    axes[0].set_title("training loss", loc="left")
    raw(axes[1], gradient, label="‖∇L‖²")
    nu = second_moment(run, "discrete")
    axes[1].plot(nu.index, nu, color=SHADES[1], label="ν")
    axes[1].set_yscale("log")
    axes[1].set_ylim(top=10 * gradient.max())
    axes[1].legend(ncols=2, loc="upper left")
    axes[1].set_title("squared gradient norm", loc="left")
    outputs = spectrum(run, "discrete", "output")
    each = outputs.shape[1] // EXAMPLES
    for example, colour in zip(range(EXAMPLES), SHADES):
        own = outputs[range(each * example, each * (example + 1))]
        raw(axes[2], own[own.iloc[-1].idxmax()], color=colour, alpha=1, label=f"example {example + 1}")
    axes[2].legend(loc="lower right")
    axes[2].set_title("network outputs", loc="left")
    for ax, column in ((axes[3], "sharpness"), (axes[4], "effective_sharpness")):
        raw(ax, series(run, "discrete", column))
        middle = series(run, "midpoint", column)
        ax.plot(middle.index, middle, color="#0072B2")
    threshold(axes[4], 2)
    axes[3].set_title("sharpness λ_max(H)", loc="left")
    axes[4].set_title("effective sharpness", loc="left")
    axes[4].set_ylim(0, 1.1 * series(run, "discrete", "effective_sharpness").max())
    along = spectrum(run, "central", "displacement")[0]
    raw(axes[5], along, alpha=1)
    axes[5].set_title("displacement uᵀD$^{−½}$(w − w̄)", loc="left")
    for ax in axes:
        ax.set_xlim(0, loss.index[-1])
    return finish(figure)


def claims(runs):
    """The effective sharpness starts below 2, overshoots, and equilibrates at 2 while the sharpness rises."""
    run = runs["run"]
    reached = edge_step(run)
    effective = series(run, "midpoint", "effective_sharpness")
    sharpness = since(series(run, "midpoint", "sharpness"), reached)
    yield Claim("effective sharpness at the start, over 2", effective.iloc[0] / 2, high=0.7)
    yield Claim("its largest value, over 2", effective.max() / 2, low=1.05)
    settled = since(effective, reached)
    settled = settled.iloc[len(settled) // 2 :]
    yield Claim("its mean over the last half after reaching 2, over 2", settled.mean() / 2, 0.95, 1.05)
    yield Claim(
        "sharpness at the end over that where 2 is reached", sharpness.iloc[-1] / sharpness.iloc[0], low=1.5
    )
