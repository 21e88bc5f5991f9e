"""First and second derivatives of single outputs: how nearly linear the network is in its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cflow_cli import curvature
from cflow_cli.errors import UserError
from cflow_cli.measurements.base import Measured, Measurement, Point, Setup
from cflow_cli.records import Column

# An interval that no run reaches the end of.
_NEVER = 2**31 - 1


@dataclass(frozen=True)
class OutputHessian(Measurement):
    """Spectral norm of the Hessian ∇²f, and norm of the gradient ∇f, of single outputs f; means over some of them.

    In a wide network with a linear output and no bottleneck the first falls like 1/√width while the second stays: the
    network becomes linear in its weights, and its tangent kernel constant.

    Parameters
    ----------
    every
        Optimizer steps between two evaluations; 0 for one, where a process begins.
    examples
        Training examples, the first, each with all its outputs.
    iterations
        Lanczos steps per output, each a Hessian-vector product of it.

    Notes
    -----
    Liu, Zhu, Belkin, *On the linearity of large non-linear models*, arXiv:2010.01092, theorem 3.2.
    """

    every: int = 0
    examples: int = 3
    iterations: int = 30

    name: ClassVar[str] = "output_hessian"
    from_branch_point: ClassVar[bool] = True
    columns: ClassVar[tuple[Column, ...]] = (
        Column("output_hessian", "float64", "output/weight²", "spectral norm ‖∇²f‖, mean over some outputs"),
        Column("output_gradient", "float64", "output/weight", "norm ‖∇f‖, mean over the same outputs"),
    )

    def __post_init__(self) -> None:
        """Check what no type can say."""
        if self.every < 0 or self.examples < 1 or self.iterations < 1:
            raise ValueError(
                "every must not be negative, examples and iterations must be at least 1, "
                f"got {self.every}, {self.examples} and {self.iterations}"
            )

    def interval(self, optimizer: Any) -> int:
        """As set; 0 is never again."""
        return self.every or _NEVER

    def prepare(self, setup: Setup) -> Any:
        """Nothing but a check that there is a network."""
        if not setup.problem.num_examples:
            raise UserError(
                "measurement output_hessian is about the outputs of a network, and this problem is a function of "
                "the weights alone; make it with Problem.from_model, or leave output_hessian out"
            )
        return ()

    def __call__(self, point: Point, fixed: Any, memory: Any) -> Measured:
        """Both norms, and their means."""
        gradients, hessians = curvature.output_derivatives(
            lambda w: point.problem.outputs(w, self.examples), point.weights, steps=self.iterations
        )
        values = {"output_hessian": hessians.mean(), "output_gradient": gradients.mean()}
        return Measured(values, memory)
