"""Networks of growing width, several seeds each, trained until they fit, as several figures show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from cflow_cli.figures.measuring import FigureRun

FITTED = 0.01
"""Training loss at which a run is taken to end."""

# Network -> its name and overrides; rates are about half of the largest that is stable at the start.
ONE = ("1 hidden layer", ["model.depth=2"])
THREE = ("3 hidden layers", ["model.depth=4", "lr=2", "steps=80"])
SHALLOW = {"mini": (32, 128, 512, 2048), "paper": (32, 64, 128, 256, 512, 1024, 2048)}
DEEP = {"mini": (16, 32, 64, 128, 256), "paper": (16, 32, 64, 128, 256, 512)}
SEEDS = 5

Networks = Mapping[str, tuple[str, Sequence[str]]]
Widths = Mapping[str, Mapping[str, Sequence[int]]]


def runs(networks: Networks, widths: Widths, size: str) -> dict[str, list[str]]:
    """Every network at every width and seed; labels name all three."""
    return {
        f"{network}_{width}_{seed}": [
            "experiment=linearity",
            *overrides,
            f"model.width={width}",
            f"seed={seed}",
        ]
        for network, (_, overrides) in networks.items()
        for width in widths[network][size]
        for seed in range(SEEDS)
    }


def end(run: FigureRun) -> int:
    """Step at which the loss is first at most that wanted; the last one where it never is."""
    loss = run.series("discrete", "loss")
    fitted = loss.index[loss <= FITTED]
    return int(fitted[0] if len(fitted) else loss.index[-1])


def medians(
    runs: Mapping[str, FigureRun], network: str, value: Callable[[FigureRun], float]
) -> tuple[NDArray, NDArray, NDArray]:
    """Widths, the value of each seed at each width, and the median over seeds."""
    table: dict[int, list[float]] = {}
    for label, run in runs.items():
        name, width, _ = label.split("_")
        if name == network:
            table.setdefault(int(width), []).append(value(run))
    widths = np.array(sorted(table))
    each = np.array([table[width] for width in widths])
    return widths, each, np.median(each, axis=1)


def slope(widths: NDArray, values: NDArray) -> float:
    """Exponent of a power law, by least squares of the logarithms."""
    return float(np.polyfit(np.log(widths), np.log(values), 1)[0])
