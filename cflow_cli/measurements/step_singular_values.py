"""Singular values of the optimizer's step: what tells one that levels them (Muon) from one that does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cflow_cli.errors import UserError
from cflow_cli.measurements.base import Measured, Measurement, Point, Setup


@dataclass(frozen=True)
class StepSingularValues(Measurement):
    """Singular values of the step ΔW of the matrix of weights that has the most entries.

    What has more than two axes is a matrix with its last as columns.
    """

    every: int = 10

    name: ClassVar[str] = "step_singular_values"
    optimizer_only: ClassVar[bool] = True
    kinds: ClassVar[Mapping[str, str]] = {
        "step_singular_value": "singular value of the step of the largest matrix of weights, largest first"
    }

    def prepare(self, setup: Setup) -> Any:
        """Nothing; UserError where there is no matrix."""
        if not setup.problem.matrices(setup.problem.w0):
            raise UserError(
                "step_singular_values needs a matrix of weights, and this model has none; "
                "take it out of the measurements"
            )
        return ()

    def __call__(self, point: Point, fixed: object, memory: object) -> Measured:
        """One singular value decomposition."""
        # Configs are checked without JAX.
        from jax.numpy.linalg import svdvals

        largest = max(point.problem.matrices(point.move), key=lambda matrix: matrix.size)
        return Measured({"step_singular_value": svdvals(largest)}, memory)
