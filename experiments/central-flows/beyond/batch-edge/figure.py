"""Mini-batches have an edge of their own: the curvature of a batch along its gradient, not λ_max of all data."""

from cflow_cli.figures.claims import Check
from cflow_cli.figures.drawing import SHADES, panels, threshold
from cflow_cli.figures.measuring import late_mean

CAPTION = """
Gradient descent on mini-batches, without and with momentum β = 0.9, and on large batches with momentum; a colour per
seed. Batch sharpness times η (lines), a mean over ten measurements, and η λ_max of the full batch (dotted). Dashed:
2(1−β), the edge of small batches, and in the last panel 2(1+β), that of large ones.
"""
BATCHES = {
    "mini": {
        "small": ["lr=0.5"],
        "momentum": ["optimizer=momentum", "lr=0.05"],
        "large": ["optimizer=momentum", "lr=0.5", "steps=1000", "processes.minibatch.batch_size=500"],
    },
    "paper": {
        "small": [],
        "momentum": ["optimizer=momentum", "lr=0.002"],
        "large": ["optimizer=momentum", "steps=10000", "processes.minibatch.batch_size=4096"],
    },
}
SEEDS = (0, 1)
MEAN = 10
TITLES = {"small": "small batches", "momentum": "small batches, β = 0.9", "large": "large batches, β = 0.9"}
SMALL = Check(
    "{each run of small batches}: batch sharpness over 2(1−β)/η, mean of the last half", 0.8, 1.2, paper="1"
)
BELOW = Check(
    "{each run of small batches}: λ_max of the full batch over its edge, 2(1+β)/η, the same", high=0.75
)
LARGE = Check(
    "{each run of large batches}: batch sharpness over 2(1−β)/η, the same", low=5, paper="19: 2(1+β)/η"
)


def runs(size):
    """Two seeds of each."""
    return {
        f"{name}_{seed}": [
            f"experiment=batch_{size}",
            *own,
            f"seed={seed}",
            f"processes.minibatch.seed={seed}",
        ]
        for name, own in BATCHES[size].items()
        for seed in SEEDS
    }


def momentum(run):
    """β, 0 where there is none."""
    return float(run.config["optimizer"].get("momentum") or 0)


def sharpness(run):
    """η times the batch sharpness, and η λ_max of the full batch, along the run on batches."""
    effective = run.series("minibatch", "effective_sharpness").dropna()
    largest = effective[effective > 0] * (1 + momentum(run))
    return run.lr * run.series("minibatch", "batch_sharpness").dropna(), largest


def draw(**runs):
    """Draw both sharpnesses, a panel per kind of run."""
    figure, axes = panels(1, len(TITLES), titles=TITLES.values(), height=2.2)
    for label, run in runs.items():
        name, _, seed = label.rpartition("_")
        ax, colour = axes[list(TITLES).index(name)], SHADES[int(seed)]
        batch, largest = sharpness(run)
        smooth = batch.rolling(MEAN, min_periods=1).mean()
        labels = ("of a batch", "of all data") if label == "momentum_0" else (None, None)
        ax.plot(smooth.index, smooth, color=colour, linewidth=1.4, label=labels[0])
        ax.plot(largest.index, largest, color=colour, linewidth=1, linestyle=":", label=labels[1])
        if seed == "0":
            threshold(ax, 2 * (1 - momentum(run)), "2(1−β)")
        if seed == "0" and name == "large":
            threshold(ax, 2 * (1 + momentum(run)), "2(1+β)")
    for ax in axes:
        ax.set_ylim(0)
    axes[1].legend(loc="lower right")
    axes[0].set_ylabel("η × sharpness")
    return figure


def claims(**runs):
    """Small batches sit near 2(1−β)/η while λ_max is below its edge; large batches are far above that."""
    for label, run in runs.items():
        name, _, seed = label.rpartition("_")
        beta, told = momentum(run), f"{TITLES[name]}, seed {seed}"
        batch, largest = (late_mean(values, 0) for values in sharpness(run))
        if name == "large":
            yield LARGE(batch / (2 * (1 - beta)), told)
        else:
            yield SMALL(batch / (2 * (1 - beta)), told)
            yield BELOW(largest / (2 * (1 + beta)), told)
