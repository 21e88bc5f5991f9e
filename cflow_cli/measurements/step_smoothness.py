"""Curvature along the optimizer's own step: 2 at any edge of stability, with or without a preconditioner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cflow_cli.measurements.base import Measured, Measurement, Point
from cflow_cli.records import Column


@dataclass(frozen=True)
class StepSmoothness(Measurement):
    """ΔᵀHΔ / (−Δᵀg) of the step Δ = w₊ − w that the optimizer takes from an iterate with gradient g.

    An iterate that alternates between w̄ ± δ along a direction with gradient ±Hδ has Δ = ∓2δ and the ratio 2, whatever
    made Δ out of g: the edge of stability of any optimizer, also of those without a preconditioner (Muon, Lion).
    Below the edge it is smaller.
    """

    every: int = 1

    name: ClassVar[str] = "step_smoothness"
    optimizer_only: ClassVar[bool] = True
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "step_smoothness",
            "float64",
            "1",
            "curvature along the optimizer's step over its slope, ΔᵀHΔ/(−Δᵀg); 2 at the edge of stability",
        ),
    )

    def __call__(self, point: Point, fixed: object, memory: object) -> Measured:
        """One Hessian-vector product."""
        move = point.move
        curvature = move @ point.linear.hvp(move[None])[0]
        return Measured({"step_smoothness": curvature / -(move @ point.linear.gradient)}, memory, hvps=1)
