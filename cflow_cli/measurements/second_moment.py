"""The second moment ν of an adaptive optimizer, itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cflow_cli.measurements.base import Measured, Measurement, Point, Setup, Values, checked_watch, watched
from cflow_cli.records import Column


@dataclass(frozen=True)
class SecondMoment(Measurement):
    """ν as the optimizer's state holds it, before the step: norm, sum, and a few weights.

    Of several second moments (AMSGrad's ν and its maximum) the first. A flow's ν already is the average of the
    optimizer's, and so its own prediction.

    Parameters
    ----------
    every
        Optimizer steps between two rows.
    watch
        As of the measurement ``coordinates``.
    """

    every: int = 1
    watch: Sequence[int] | int = 3

    name: ClassVar[str] = "second_moment"
    predicted: ClassVar[bool] = True
    needs_moments: ClassVar[bool] = True
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "second_moment_norm",
            "float64",
            "loss²/weight²",
            "norm ‖ν‖ of the second moment; null without one",
        ),
        Column("second_moment_sum", "float64", "loss²/weight²", "sum of ν over all weights"),
    )
    kinds: ClassVar[Mapping[str, str]] = {
        "second_moment": "second moment ν of one weight (index: position in the flat weight vector)"
    }

    def __post_init__(self) -> None:
        """Check what no type can say."""
        super().__post_init__()
        object.__setattr__(self, "watch", checked_watch(self.watch))

    def prepare(self, setup: Setup) -> Any:
        """Indices of the watched weights."""
        return watched(self.watch, setup)

    def indices(self, kind: str, fixed: Any) -> np.ndarray | None:
        """Where the weights stand in the flat vector."""
        return np.asarray(fixed)

    def __call__(self, point: Point, fixed: Any, memory: Any) -> Measured:
        """‖ν‖, Σν and ν at the watched weights."""
        # A global second moment is that of every weight; an optimizer without one has none to show.
        nu = point.moments[0] if point.moments else float("nan")
        everywhere = nu + 0 * point.weights
        return Measured(
            {
                "second_moment_norm": (everywhere**2).sum() ** 0.5,
                "second_moment_sum": everywhere.sum(),
                "second_moment": everywhere[fixed],
            },
            memory,
        )

    def predict(self, point: Point, fixed: Any, values: Values) -> Values:
        """The flow's own."""
        return values
