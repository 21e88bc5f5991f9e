"""Deeper products recover a matrix that the least nuclear norm does not."""

from functools import cache

import numpy as np

from cflow_cli.datasets.completion import completion
from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels
from cflow_cli.models.nuclear_norm import minimum_nuclear_norm

CAPTION = """
Completion of a 100×100 matrix of rank 5 from 2,000 of its entries by gradient descent on products of two, three and
four matrices (colours), from initial products of several scales: reconstruction error over all entries (a), effective
rank (b), nuclear norm over that of the true matrix (c), at the first measurement with a training loss below 5e-7, or
the last; medians over three matrices. Dashed: the matrix of least nuclear norm that fits the entries. Dotted: the true
matrix.
"""
TITLES = ("reconstruction error", "effective rank", "nuclear norm / that of the truth")
# The paper stops at 1e-6 of its loss, which is twice this one.
STOP = 5e-7
DEEP = (3, 4)
EXACT = Check("reconstruction error, {each deeper product}", high=1e-4, paper="3e-5")
BETTER = Check("reconstruction error of the least nuclear norm over that of depth 3", low=100, paper="4000")
SMALL = Check(
    "reconstruction error of depth 2 at its smallest scale over that of the least nuclear norm",
    high=0.5,
    paper="0.025/0.11",
)
NOT_LEAST = Check(
    "nuclear norm of depth 2 over the least, at {each scale}", low=1.005, paper="above 1 at the smallest, too"
)
RANK = Check("effective rank of {each deeper product}, distance from the true one", high=0.15, paper="0.1")
RANK_2 = Check("effective rank of depth 2 at scale 0.001", low=8, paper="10")
GAP = Check("relative duality gap of the least nuclear norm", high=1e-3)
# (depth, scale) -> learning rate and steps to the stop: rates are half the largest stable one, and a seventh of it
# for depth 2, which depends on it well below the edge. A smaller start takes longer to leave, deep products most: depth
# 4 from 1e-6 would take ten times the steps of all others.
MINI = {
    (2, 1e-3): (15, 3000),
    (2, 1e-6): (15, 4500),
    (3, 1e-3): (12, 1500),
    (3, 1e-6): (12, 4500),
    (4, 1e-3): (4, 4000),
}
PAPER_SCALES = (1e-3, 1e-4, 1e-5, 1e-6)
SEEDS = (0, 1, 2)


def runs(size):
    """One run per depth, scale and seed of the matrix."""
    cells = MINI if size == "mini" else {(depth, s): None for depth in (2, 3, 4) for s in PAPER_SCALES}
    found = {}
    for (depth, scale), given in cells.items():
        for seed in SEEDS:
            rate, steps = given or (1e-3, 100000)
            found[f"depth {depth}, scale {scale:g}, seed {seed}"] = [
                *(f"experiment=dmf_recovery_{size}", f"model.depth={depth}", f"model.init_scale={scale:g}"),
                *(f"lr={rate:g}", f"steps={steps}", f"data.seed={seed}"),
            ]
    return found


@cache
def problem(settings):
    """The data of a run, and the least nuclear norm on them."""
    data = completion(**dict(settings))
    return data, minimum_nuclear_norm(data)


def problem_of(run):
    """The same for a run."""
    return problem(tuple((k, v) for k, v in run.config["data"].items() if not k.startswith("_")))


def at_stop(run, column):
    """Value at the first measurement at which the loss is below the stop; the last where none is."""
    values, loss = run.series("discrete", column).dropna(), run.series("discrete", "loss")
    below = values[loss[values.index] < STOP]
    return float((below if len(below) else values.iloc[-1:]).iloc[0])


def effective_rank(matrix):
    """exp(−Σ p ln p) of the shares of singular values."""
    values = np.linalg.svd(matrix, compute_uv=False)
    shares = values / values.sum()
    return float(np.exp(-shares @ np.log(shares + 1e-10)))


def error(matrix, data):
    """Mean square of the difference from the true matrix."""
    return float(((matrix - data.truth) ** 2).mean())


def by_cell(runs, value):
    """(depth, scale) -> median over the seeds of a value of a run."""
    found = {}
    for run in runs.values():
        cell = run.config["model"]["depth"], run.config["model"]["init_scale"]
        found.setdefault(cell, []).append(value(run))
    return {cell: float(np.median(values)) for cell, values in found.items()}


def draw(**runs):
    """Draw the three quantities against the scale, a line per depth."""
    figure, axes = panels(1, 3, titles=TITLES, height=2.2)
    problems = [problem_of(run) for run in runs.values()]

    def median(value):
        return float(np.median([value(data, least) for data, least in problems]))

    def norm(data):
        return np.linalg.norm(data.truth, "nuc")

    quantities = (
        (
            lambda run: at_stop(run, "reconstruction_error"),
            median(lambda data, least: error(least.matrix, data)),
            None,
        ),
        (
            lambda run: at_stop(run, "effective_rank"),
            median(lambda _, least: effective_rank(least.matrix)),
            median(lambda data, _: effective_rank(data.truth)),
        ),
        (
            lambda run: at_stop(run, "nuclear_norm") / norm(problem_of(run)[0]),
            median(lambda data, least: least.primal / norm(data)),
            1.0,
        ),
    )
    for ax, (value, of_least, of_truth) in zip(axes, quantities):
        cells = by_cell(runs, value)
        for depth, colour in zip((2, 3, 4), SHADES):
            own = sorted((scale, y) for (d, scale), y in cells.items() if d == depth)
            ax.plot(*zip(*own), "o-", color=colour, markersize=3.5, linewidth=1, label=f"depth {depth}")
        ax.axhline(of_least, color="#444444", linewidth=1, linestyle="--", label="least nuclear norm")
        if of_truth is not None:
            ax.axhline(of_truth, color="#777777", linewidth=1, linestyle=":", label="truth")
        ax.set_xscale("log")
        ax.set_xlabel("scale of the initial product")
    axes[0].set_yscale("log")
    axes[0].legend(loc="center left", bbox_to_anchor=(0.02, 0.38))  # between the two depths
    return figure


def claims(**runs):
    """Depths 3 and 4 recover the matrix, depth 2 does in part, and not because its nuclear norm is the least."""
    problems = [problem_of(run) for run in runs.values()]
    least = float(np.median([error(x.matrix, data) for data, x in problems]))
    errors = by_cell(runs, lambda run: at_stop(run, "reconstruction_error"))
    ranks = by_cell(runs, lambda run: at_stop(run, "effective_rank"))
    off = by_cell(
        runs,
        lambda run: abs(at_stop(run, "effective_rank") - effective_rank(problem_of(run)[0].truth)),
    )
    over = by_cell(runs, lambda run: at_stop(run, "nuclear_norm") / problem_of(run)[1].primal)
    name = "depth {} from scale {:g}".format
    for cell in errors:
        if cell[0] in DEEP:
            yield EXACT(errors[cell], name(*cell))
            yield RANK(off[cell], name(*cell))
    yield BETTER(least / max(y for (depth, _), y in errors.items() if depth == 3))
    smallest = min(scale for depth, scale in errors if depth == 2)
    yield SMALL(errors[2, smallest] / least)
    for (depth, scale), ratio in over.items():
        if depth == 2:
            yield NOT_LEAST(ratio, f"{scale:g}")
    yield RANK_2(ranks[2, 1e-3])
    yield GAP(max(x.gap for _, x in problems))
