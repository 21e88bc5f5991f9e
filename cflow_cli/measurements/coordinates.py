"""A few weights: their squared gradients and step sizes, and the squared gradients that a flow predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cflow_cli.measurements.base import PREDICTED, Measured, Point, Values
from cflow_cli.measurements.watching import Watching


@dataclass(frozen=True)
class Coordinates(Watching):
    """Squared gradient ∇L² and step size D of some weights at every step.

    A flow predicts E[g²] = ∇L² + diag(HΣH) per weight.

    Parameters
    ----------
    every
        Optimizer steps between two rows.
    watch
        Number of weights, chosen at random among the tenth with the largest gradients, or their indices.
    """

    every: int = 1

    name: ClassVar[str] = "coordinates"
    predicted: ClassVar[bool] = True
    kinds: ClassVar[Mapping[str, str]] = {
        "grad_sq": "squared gradient of one weight, ∇L² (index: position in the flat weight vector)",
        "effective_step_size": "effective step size D of one weight (index as grad_sq)",
    }

    def __call__(self, point: Point, fixed: Any, memory: Any) -> Measured:
        """∇L² and D at the watched weights."""
        squares, step_sizes = point.linear.gradient[fixed] ** 2, point.step_sizes[fixed]
        return Measured({"grad_sq": squares, "effective_step_size": step_sizes}, memory)

    def predictions(self) -> tuple[Any, dict[str, str]]:
        """Only the squared gradients: D of a flow is its prediction already."""
        return (), {
            PREDICTED + "grad_sq": "flow's prediction of the time average of grad_sq, ∇L² + diag(HΣH)"
        }

    def predict(self, point: Point, fixed: Any, values: Values) -> Values:
        """∇L² + diag(HΣH)."""
        assert point.oscillation is not None
        return {"grad_sq": point.linear.gradient[fixed] ** 2 + point.oscillation.gradient_variance[fixed]}
