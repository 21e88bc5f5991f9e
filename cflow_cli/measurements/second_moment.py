"""The second moment ν of an adaptive optimizer, itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cflow_cli.measurements.base import Measured, Point, Values
from cflow_cli.measurements.watching import Watching
from cflow_cli.records import Column


@dataclass(frozen=True)
class SecondMoment(Watching):
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
