"""Curvature of a mini-batch along its own gradient: what sits at 2/η where mini-batches set the edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from cflow_cli.errors import UserError
from cflow_cli.measurements.base import Measured, Measurement, Point, Setup
from cflow_cli.records import Column

if TYPE_CHECKING:
    from jaxtyping import Array


class Drawn(NamedTuple):
    """Key of the batches that are drawn."""

    key: Array


@dataclass(frozen=True)
class BatchSharpness(Measurement):
    """Batch sharpness E_B[g_BᵀH_B g_B / ‖g_B‖²], with gradient g_B and Hessian H_B of the loss on a batch B.

    Under gradient descent on mini-batches of that size it rises to 2/η and stays there, while λ_max of the full batch
    stays below (Andreyev & Beneventano, arXiv:2412.20553, "batch sharpness"); with momentum to 2(1−β)/η for small
    batches and to 2(1+β)/η for large ones (arXiv:2604.14108). Of the full batch it is the curvature along the gradient.

    Parameters
    ----------
    every
        Optimizer steps between two measurements.
    batch_size
        Examples in a batch.
    batches
        Batches drawn for each mean, without replacement within each.
    """

    every: int = 10
    batch_size: int = 20
    batches: int = 16

    name: ClassVar[str] = "batch_sharpness"
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "batch_sharpness",
            "float64",
            "loss/weight²",
            "mean curvature of the loss on a batch along its own gradient, g_BᵀH_B g_B/‖g_B‖²",
        ),
        Column(
            "batch_sharpness_error",
            "float64",
            "loss/weight²",
            "standard error of batch_sharpness, from the batches it is a mean of",
        ),
    )

    def __post_init__(self) -> None:
        """Check what no type can say."""
        super().__post_init__()
        for name, least in (("batch_size", 1), ("batches", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def prepare(self, setup: Setup) -> Drawn:
        """The key; UserError where there are no such batches."""
        examples = setup.problem.num_examples
        if not examples:
            raise UserError(
                "batch_sharpness needs examples to make batches of, and this problem is a function of the weights; "
                "take it out of the measurements"
            )
        if self.batch_size > examples:
            raise UserError(
                f"measurements.batch_sharpness.batch_size={self.batch_size} is more than the {examples} examples"
            )
        return Drawn(_batches().key_of(setup.seed))

    def __call__(self, point: Point, fixed: Any, memory: object) -> Measured:
        """One gradient and one Hessian-vector product of each batch."""
        problem, count = point.problem, self.batches
        found = _batches().along_gradients(
            problem, point.weights, fixed.key, point.step, self.batch_size, count
        )
        # In those of the full batch, rounded up.
        spent = -(-count * self.batch_size // problem.num_examples)
        error = found.std(ddof=1) / count**0.5
        values = {"batch_sharpness": found.mean(), "batch_sharpness_error": error}
        return Measured(values, memory, gradients=spent, hvps=spent)


def _batches() -> Any:
    """The module of what is computed; late, because configs are checked without JAX."""
    from cflow_cli.curvature import batches

    return batches
