"""Measurements of a few weights: which those are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cflow_cli.errors import UserError
from cflow_cli.measurements.base import Measurement, Setup


@dataclass(frozen=True)
class Watching(Measurement):
    """Base of measurements that write a value for each of some weights.

    Parameters
    ----------
    every
        Optimizer steps between two evaluations.
    watch
        Number of weights, chosen at random among the tenth with the largest gradients, or their indices.
    """

    watch: Sequence[int] | int = 3

    def __post_init__(self) -> None:
        """Check what no type can say."""
        super().__post_init__()
        object.__setattr__(self, "watch", _checked(self.watch))

    def prepare(self, setup: Setup) -> Any:
        """Indices of the watched weights; UserError for an index that there is not."""
        return _choose(self.watch, setup)

    def indices(self, kind: str, fixed: Any) -> np.ndarray | None:
        """Where the weights stand in the flat vector."""
        return np.asarray(fixed)


def _choose(wanted: int | Sequence[int], setup: Setup) -> np.ndarray:
    """Weights to watch: their indices as given, or a random choice among the tenth with the largest gradients.

    Raises
    ------
    UserError
        For an index that there is not.
    """
    n = len(setup.gradient)
    if not isinstance(wanted, int):
        if any(i >= n for i in wanted):
            raise UserError(f"watch must name weights by their indices in 0..{n - 1}, got {list(wanted)}")
        return np.asarray(list(wanted), np.int32)
    wanted = min(wanted, n)
    pool = np.argsort(-np.abs(setup.gradient), kind="stable")[: max(n // 10, wanted)]
    return np.sort(np.random.default_rng(setup.seed).choice(pool, wanted, replace=False)).astype(np.int32)


def _checked(value: Any) -> int | tuple[int, ...]:
    """A number of weights to watch, or their indices as a tuple; ValueError for anything else."""
    allowed = "watch must be a number of weights or a list of their indices, none negative"
    items = [value] if not isinstance(value, Sequence) or isinstance(value, str) else list(value)
    if any(isinstance(i, bool) or not isinstance(i, int | float) or i != int(i) or i < 0 for i in items):
        raise ValueError(f"{allowed}, got {value}")
    return tuple(int(i) for i in items) if isinstance(value, Sequence) else int(items[0])
