"""The edge of stability caps the largest singular value, and so decides which matrix is found."""

from functools import cache

import numpy as np

from cflow_cli.datasets.completion import completion
from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, flow, panels, raw, threshold
from cflow_cli.models.balanced import balanced_sharpness

CAPTION = """
Gradient descent on products of three matrices that complete a matrix of low rank, at learning rates below and above
2/S, with S the sharpness at the balanced factors of the true matrix. At the end, at the midpoints: sharpness times η/2
(a), reconstruction error (b), effective rank and, dashed, the true one (c). A smaller matrix at 1.15 times that rate:
its three largest singular values at the midpoints (wide) and along the central flow (black) (d), reconstruction error
of both (e), effective sharpness (f).
"""
TITLES = (
    "sharpness · η/2",
    "reconstruction error",
    "effective rank",
    "singular values at 1.15",
    "reconstruction error at 1.15",
    "effective sharpness at 1.15",
)
AT_EDGE = Check("midpoint sharpness over 2/η at {each rate} times the largest stable one", 0.94, 1.06)
BELOW = Check("midpoint sharpness over 2/η at {each rate} times the largest stable one, below", high=0.94)
LOST = Check("reconstruction error at 1.15 over that at 0.9", low=100)
FLATTER = Check("effective rank at 1.3 less that of the true matrix", low=1)
CAP = Check("σ₁ of the central flow over that of the midpoints at 1.15", 0.95, 1.05)
SAME = Check("reconstruction error of the central flow over that of the midpoints at 1.15", 0.3, 3)
DEPTH = 3
FACTORS = (0.5, 0.9, 1.05, 1.15, 1.3, 1.5)
ABOVE = tuple(factor for factor in FACTORS if factor > 1)
FLOW_FACTOR = 1.15
SMALL = {"rows": 20, "columns": 20, "rank": 2, "n": 200}
SIZES = {
    "mini": ({"rows": 30, "columns": 30, "rank": 3, "n": 450}, (0, 1, 2)),
    "paper": ({"rows": 100, "columns": 100, "rank": 5, "n": 2000}, (0, 1, 2)),
}


@cache
def largest_rate(settings):
    """2/S with the sharpness S at the balanced factors of the true matrix."""
    return 2 / balanced_sharpness(completion(**dict(settings)), DEPTH)


def rate(factor, data):
    """A multiple of that rate, as an override."""
    return f"lr={factor * largest_rate(tuple(data.items())):.5g}"


def runs(size):
    """One run per rate and seed, and one with the central flow on a smaller matrix."""
    data, seeds = SIZES[size]
    found = {"above": ["experiment=dmf_flow", rate(FLOW_FACTOR, SMALL)]}
    for seed in seeds:
        own = data | {"seed": seed}
        given = [f"data.{key}={value}" for key, value in own.items()]
        for factor in FACTORS:
            found[f"{factor} seed {seed}"] = [
                "experiment=dmf_edge",
                *given,
                rate(factor, own),
            ]
    return found


def last(run, column, process="midpoint"):
    """Mean of the last ten values."""
    return float(run.series(process, column).dropna().iloc[-10:].mean())


def by_factor(runs, column):
    """Multiple of the rate -> median over the seeds of a column at the end of the midpoints."""
    found = {}
    for label, run in runs.items():
        found.setdefault(float(label.split()[0]), []).append(last(run, column))
    return {factor: float(np.median(values)) for factor, values in found.items()}


def true_rank(run):
    """Effective rank of the true matrix."""
    settings = {key: value for key, value in run.config["data"].items() if not key.startswith("_")}
    values = np.linalg.svd(completion(**settings).truth, compute_uv=False)
    shares = values / values.sum()
    return float(np.exp(-shares @ np.log(shares + 1e-10)))


def draw(above, **runs):
    """Draw what is found against the rate, and one rate with the central flow."""
    figure, axes = panels(2, 3, titles=TITLES, height=1.9)
    sharpness = by_factor(runs, "effective_sharpness")
    for ax, points in zip(
        axes,
        (
            {factor: value / 2 for factor, value in sharpness.items()},
            by_factor(runs, "reconstruction_error"),
            by_factor(runs, "effective_rank"),
        ),
    ):
        ax.plot(points.keys(), points.values(), "o-", color=SHADES[0], markersize=3.5, linewidth=1)
        ax.axvline(1, color="#999999", linewidth=0.7, zorder=0)
        ax.set_xlabel("η over the largest stable one")
    threshold(axes[0], 1)
    axes[0].set_ylim(0, 1.2)
    axes[1].set_yscale("log")
    axes[2].axhline(true_rank(next(iter(runs.values()))), color="#444444", linewidth=1, linestyle="--")
    with_flow(axes[3:], above)
    return figure


def with_flow(axes, run):
    """Draw the midpoints of one run and its central flow."""
    for place, colour in zip(range(3), SHADES):
        real, predicted = (
            run.spectrum(process, "singular_value")[place].dropna() for process in ("midpoint", "central")
        )
        axes[0].plot(real.index, real, color=colour, linewidth=2.4, alpha=0.6, label=f"σ{place + 1}")
        flow(axes[0], predicted, linewidth=1.0)
    for ax, column in ((axes[1], "reconstruction_error"), (axes[2], "effective_sharpness")):
        raw(ax, run.series("midpoint", column).dropna(), "midpoint", linewidth=2.4, alpha=0.6)
        flow(ax, run.series("central", column).dropna(), label="central flow")
    axes[0].legend(loc="center right", bbox_to_anchor=(1, 0.3))
    axes[1].set_yscale("log")
    threshold(axes[2], 2)
    axes[2].set_ylim(0, 3)
    axes[2].legend()
    for ax in axes:
        ax.set_xlabel("optimizer step")


def claims(above, **runs):
    """Above the edge a fit of a higher rank is found, and the central flow says which."""
    for factor, value in by_factor(runs, "effective_sharpness").items():
        yield (AT_EDGE if factor > 1 else BELOW)(value / 2, factor)
    errors = by_factor(runs, "reconstruction_error")
    yield LOST(errors[1.15] / errors[0.9])
    fitted = [run for label, run in runs.items() if label.startswith("1.3 ")]
    yield FLATTER(float(np.median([last(run, "effective_rank") - true_rank(run) for run in fitted])))
    first = [above.spectrum(process, "singular_value")[0].iloc[-1] for process in ("central", "midpoint")]
    yield CAP(first[0] / first[1])
    yield SAME(
        last(above, "reconstruction_error", "central") / last(above, "reconstruction_error", "midpoint")
    )
