"""Singular values grow one after the other, the more apart the deeper the product."""

import numpy as np

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels

CAPTION = """
Gradient flow on the completion of a 100×100 matrix of rank 5 from 2,000 of its entries, from products of small identity
matrices: the ten largest singular values of products of one to four matrices (a–d; the five largest in colours).
Relative error of the rates dσ/dt = −N σ^{2−2/N} uᵀ∇L(W)v that balanced factors follow (e). Reconstruction error (f).
"""
RATE = Check("error of the law of the rates at {each depth}, median", high=1e-3)
RATE_WORST = Check("error of the law of the rates at {each depth}, largest", high=1e-2)
GAP_2 = Check("σ₆/σ₅ at the end, depth 2", low=0.1)
GAP = Check("σ₆/σ₅ at the end, {each deeper product}", high=0.01)
LATER = Check("time at which σ₅ passes half its end over that of σ₁, {each depth}", low=1.3)
NOTHING = Check("reconstruction error of depth 1, which learns no unobserved entry", 0.78, 0.82, paper="0.82")
TRUE_RANK = 5
# Depth -> learning rate, which is the unit of time, and steps: the flow's own, below the edge.
CELLS = {1: (400, 100), 2: (30, 1000), 3: (10, 800), 4: (4, 2000)}


def runs(size):
    """One run per depth; both sizes are the paper's."""
    return {
        f"depth {depth}": [
            *("experiment=dmf_dynamics", f"model.depth={depth}", f"lr={rate:g}", f"steps={steps}")
        ]
        for depth, (rate, steps) in CELLS.items()
    }


def values(run):
    """Singular values, a row per measurement."""
    return run.spectrum("stable", "singular_value").dropna(how="all")


def half_time(series):
    """Step at which a series first passes half its last value."""
    return int(series.index[np.argmax(series.to_numpy() > series.iloc[-1] / 2)])


def by_depth(runs):
    """Depth -> run."""
    return {run.config["model"]["depth"]: run for run in runs.values()}


def draw(**runs):
    """Draw singular values per depth, the error of the law and the reconstruction error."""
    found = by_depth(runs)
    titles = [f"σ of {'one matrix' if n == 1 else f'a product of {n}'}" for n in found]
    figure, axes = panels(
        2, 3, titles=[*titles, "error of the law of rates", "reconstruction error"], height=1.9
    )
    for ax, run in zip(axes, found.values()):
        table = values(run)
        for place in table.columns[::-1]:
            colour = SHADES[place] if place < TRUE_RANK else "#999999"
            ax.plot(table.index, table[place], color=colour, linewidth=1.0 if place < TRUE_RANK else 0.6)
        ax.set_ylim(0)
    for (depth, run), colour in zip(found.items(), SHADES):
        for ax, column in ((axes[-2], "rate_error"), (axes[-1], "reconstruction_error")):
            if depth > 1 or ax is axes[-1]:
                series = run.series("stable", column).dropna()
                time = series.index / series.index[-1]
                ax.plot(time, series, color=colour, linewidth=1.0, label=f"depth {depth}")
    for ax in axes[-2:]:
        ax.set_yscale("log")
        ax.set_xlabel("share of the steps")
    axes[-1].legend()
    return figure


def claims(**runs):
    """The law holds, large singular values come first, and depth keeps the small ones small."""
    for depth, run in by_depth(runs).items():
        name = f"depth {depth}"
        if depth == 1:
            yield NOTHING(run.series("stable", "reconstruction_error").dropna().iloc[-1])
            continue
        table = values(run)
        # Once the entries fit, rates are rounding errors.
        loss = run.series("stable", "loss")
        error = run.series("stable", "rate_error").dropna()
        error = error[loss[error.index] > 1e-9]
        yield RATE(error.median(), name)
        yield RATE_WORST(error.max(), name)
        apart = table[TRUE_RANK].iloc[-1] / table[TRUE_RANK - 1].iloc[-1]
        yield GAP_2(apart) if depth == 2 else GAP(apart, name)
        yield LATER(half_time(table[TRUE_RANK - 1]) / half_time(table[0]), name)
