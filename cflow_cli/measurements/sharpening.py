"""What moves the sharpness: the smooth part of the step, and the oscillation's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cflow_cli.measurements.base import Measured, Measurement, Point
from cflow_cli.records import Column


@dataclass(frozen=True)
class Sharpening(Measurement):
    """uᵀḢu = ⟨∇_w(uᵀHu), Δw⟩ per optimizer step, u = D^½v the top eigenvector with uᵀD⁻¹u = 1, split in two.

    The smooth part has Δw without the oscillation, −D∇L to first order: progressive sharpening. The rest is the
    oscillation's, −½D∇⟨H, Σ⟩ for a flow; at the edge of stability the two cancel, up to what a changing D does. Along
    the optimizer (w₊ − w₋)/2 stands for the step, in which its oscillation cancels.
    """

    name: ClassVar[str] = "sharpening"
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "sharpening", "float64", "1/step", "uᵀḢu of the top eigenvector along the step, in units of S_eff"
        ),
        Column(
            "sharpening_smooth", "float64", "1/step", "its part from the step without the oscillation, −D∇L"
        ),
        Column("sharpening_oscillation", "float64", "1/step", "its part from the oscillation"),
    )

    def __call__(self, point: Point, fixed: Any, memory: Any) -> Measured:
        """One third derivative."""
        v = point.vectors[0]
        u = v if point.optimizer.is_operator else point.step_size**0.5 * v / (v @ v) ** 0.5
        slope = point.problem.third(point.weights, u, u)
        whole, smooth = slope @ point.drift, slope @ point.smooth_drift()
        values = {
            "sharpening": whole,
            "sharpening_smooth": smooth,
            "sharpening_oscillation": whole - smooth,
        }
        return Measured(values, memory, third_derivatives=1)
