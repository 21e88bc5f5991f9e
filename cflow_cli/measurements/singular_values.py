"""Singular values of a matrix that is a product of others, and how they move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cflow_cli.errors import UserError
from cflow_cli.measurements.base import Measured, Measurement, Point, Setup
from cflow_cli.records import Column


def check_factors(setup: Setup, name: str) -> None:
    """Check that a run's model is a product of matrices.

    Raises
    ------
    UserError
        If it is another, or there is none.
    """
    if not hasattr(setup.problem.model(setup.problem.w0), "factors"):
        raise UserError(
            f"the measurement {name} is for a product of matrices: choose model=matrix_factorisation with "
            "data=completion or data=sensing, or take it out of the measurements"
        )


@dataclass(frozen=True)
class SingularValues(Measurement):
    """Singular values σ of W = W_N ⋯ W_1, what they say of its rank, and the law by which they move.

    Quantities are those of :class:`cflow_cli.models.matrix_factorisation.Factors`.

    Parameters
    ----------
    every
        Optimizer steps between two evaluations, a singular value decomposition and a gradient each.
    top
        Singular values that are recorded, the largest.
    """

    every: int = 10
    top: int = 10

    name: ClassVar[str] = "singular_values"
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "nuclear_norm", "float64", "1", "nuclear norm of the product W: the sum of its singular values"
        ),
        Column(
            "effective_rank", "float64", "1", "exp(−Σ p ln p) of the shares p of the singular values of W"
        ),
        Column(
            "reconstruction_error",
            "float64",
            "1",
            "mean of (W − M)² over all entries, where the data know M",
        ),
        Column(
            "imbalance",
            "float64",
            "weight²",
            "Σ_j ‖W_{j+1}ᵀW_{j+1} − W_jW_jᵀ‖_F, which gradient flow conserves",
        ),
        Column("alignment", "float64", "1", "part of Uᵀ∇L(W)V off its diagonal, of norms; 0 is aligned"),
        Column(
            "rate_error",
            "float64",
            "1",
            "distance of −N σ^(2−2/N) Uᵀ∇L(W)V from the rates of σ under gradient flow, relative to these",
        ),
    )
    kinds: ClassVar[Mapping[str, str]] = {"singular_value": "singular value of the product W, largest first"}

    def __post_init__(self) -> None:
        """Check what no type can say."""
        super().__post_init__()
        if self.top < 1:
            raise ValueError(f"top must be at least 1, got {self.top}")

    def prepare(self, setup: Setup) -> Any:
        """Nothing, for a product of matrices; UserError for another model."""
        check_factors(setup, self.name)
        return ()

    def __call__(self, point: Point, fixed: Any, memory: Any) -> Measured:
        """Decompose the product, with the gradient by it."""
        model = point.problem.model(point.weights)
        whole = point.problem.with_model(model.collapsed())
        product, truth = model.product, point.problem.truth
        found = model.looked_at(whole.gradient(whole.w0).reshape(product.shape))
        values = {
            "nuclear_norm": found.nuclear_norm,
            "effective_rank": found.effective_rank,
            "imbalance": found.imbalance,
            "alignment": found.alignment,
            "rate_error": found.rate_error,
            "singular_value": found.values[: self.top],
        }
        if truth is not None:
            values["reconstruction_error"] = ((product - truth) ** 2).mean()
        return Measured(values, memory, gradients=1)
