"""The largest eigenvalue of the raw Hessian."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cflow_cli import curvature
from cflow_cli.measurements.base import Measured, Measurement, Point
from cflow_cli.records import Column

# Directions followed, so that the largest eigenvalue is found where two are close.
_FOLLOWED = 2
# A block of two has far to go at its first evaluation; later ones need a few.
_ITERATIONS = 200


@dataclass(frozen=True)
class Sharpness(Measurement):
    """λ_max(H) every few steps; where D is one number it is S_eff/D, at every step and for nothing."""

    name: ClassVar[str] = "sharpness"
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "sharpness",
            "float64",
            "loss/weight²",
            "largest Hessian eigenvalue λ_max(H); null where not measured",
        ),
    )
    kinds: ClassVar[Mapping[str, str]] = {
        "hessian": "eigenvalues of the Hessian H, largest first (where measured)"
    }

    def interval(self, optimizer: Any) -> int:
        """Every step where it costs nothing."""
        return 1 if _known(optimizer) else self.every

    def start(self, problem: Any, rows: Any) -> Any:
        """Two vectors, to be followed."""
        return rows[:_FOLLOWED]

    def __call__(self, point: Point, fixed: Any, memory: Any) -> Measured:
        """The spectrum that is known, or the top of one followed on its own."""
        if _known(point.optimizer):
            values = point.values / point.step_size[0]
            return Measured({"sharpness": values[0], "hessian": values}, memory)
        pairs = curvature.track(
            point.linear.hvp,
            memory,
            above=float("inf"),
            tolerance=point.eigs.tolerance,
            max_iterations=_ITERATIONS,
        )
        values = pairs.values[:1]
        return Measured({"sharpness": values[0], "hessian": values}, pairs.ahead, hvps=pairs.hvps)


def _known(optimizer: Any) -> bool:
    """Whether D is one number; it stands for 1 where an optimizer has none."""
    return optimizer.uniform or optimizer.refusal is not None
