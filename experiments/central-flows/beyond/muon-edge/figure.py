"""Muon has no flow, but an edge: curvature along its own step settles at 2."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels, raw, threshold
from cflow_cli.figures.measuring import since
from cflow_cli.report import smoothing

CAPTION = """
Muon with and without momentum, Adam and gradient descent. Above, the directional smoothness ΔᵀHΔ/(−Δᵀg) of each step Δ
(pale) and its running median over 50 steps (wide): 2 is the edge of stability of any optimizer. Below, the singular
values of the step of the largest matrix of weights, divided by the largest of them: Muon makes nearly all equal.
"""
OPTIMIZERS = {
    "muon": "Muon, β = 0.95",
    "muon_without": "Muon, β = 0",
    "adam": "Adam",
    "gd": "gradient descent",
}
# Vectors have Adam beside Muon; without momentum, Adam without it.
OWN = {
    "mini": {
        "muon": ["lr=0.02"],
        "muon_without": ["lr=0.02", "optimizer.beta=0", "optimizer.adam_b1=0"],
        "adam": ["optimizer=adam", "optimizer.b2=0.99", "lr=0.003"],
        "gd": ["optimizer=gd", "lr=0.4"],
    },
    "paper": {
        "muon": ["lr=0.002"],
        "muon_without": ["lr=0.002", "optimizer.beta=0", "optimizer.adam_b1=0"],
        "adam": ["optimizer=adam", "optimizer.b2=0.99", "lr=1.0e-4"],
        "gd": ["optimizer=gd", "lr=0.02"],
    },
}
MUONS = ("muon", "muon_without")
EDGE = Check(
    "{with and without momentum}: ΔᵀHΔ/(−Δᵀg), median over the last half of the steps", 1.9, 2.1, paper="2"
)
LEVEL = Check("{with and without momentum}: middle over largest singular value of the step, median", low=0.5)
STEEP = Check("{Adam and gradient descent}: the same", high=0.5)


def runs(size):
    """A run of each optimizer."""
    return {name: [f"experiment=muon_{size}", *own] for name, own in OWN[size].items()}


def levels(run):
    """Singular values of the step over the largest: a row per measurement."""
    values = run.spectrum("discrete", "step_singular_value").dropna()
    return values.div(values[0], axis=0)


def draw(**runs):
    """Draw smoothness above singular values, a column per optimizer."""
    count = len(runs)
    figure, axes = panels(2, count, titles=OPTIMIZERS.values(), height=1.8)
    for run, upper, lower in zip(runs.values(), axes[:count], axes[count:]):
        smoothness = run.series("discrete", "step_smoothness")
        raw(upper, smoothness)
        middle = smoothness.rolling(smoothing.WINDOW, center=True).median()
        upper.plot(middle.index, middle, color=SHADES[1], linewidth=2)
        threshold(upper, 2)
        upper.set_ylim(0, 4)
        values = levels(run)
        lower.plot(values.index, values, color=SHADES[0], linewidth=0.6)
        lower.set_yscale("log")
        lower.set_ylim(3e-4, 2)
    axes[0].set_ylabel("ΔᵀHΔ/(−Δᵀg)")
    axes[count].set_ylabel("σ / σ_max of Δ")
    return figure


def claims(**runs):
    """Muon settles at 2 and levels most singular values of its step, which the others do not."""
    for name, run in runs.items():
        ratio = levels(run).median(axis=1).median()
        if name in MUONS:
            smoothness = run.series("discrete", "step_smoothness").dropna()
            half = since(smoothness, smoothness.index[len(smoothness) // 2])
            yield EDGE(half.median(), OPTIMIZERS[name])
            yield LEVEL(ratio, OPTIMIZERS[name])
        else:
            yield STEEP(ratio, OPTIMIZERS[name])
