"""The tangent kernel: its spectrum, how far it has come from where it was, and the PL ratio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from cflow_cli import curvature
from cflow_cli.errors import UserError
from cflow_cli.measurements.base import Measured, Measurement, Point, Setup
from cflow_cli.records import Column

_TOP = 10
# Of a kernel that is too large to be formed: directions followed, and their expansions at most.
_FOLLOWED = 2
_ITERATIONS = 200


class Kept(NamedTuple):
    """What is the same for the whole run: outputs that count, terms of the loss, K(w₀)/n, or None if not formed."""

    places: Any
    terms: Any
    start: Any


@dataclass(frozen=True)
class TangentKernel(Measurement):
    """Spectrum of K/n, K = J Jᵀ with J the Jacobian of all outputs on the training examples, and n their number.

    K/n has the unit of the Hessian, whose Gauss–Newton part under ``loss=mse`` has its eigenvalues. There

        ½‖∇L‖²/L = rᵀKr/(n‖r‖²),  which lies between λ_min(K)/n and λ_max(K)/n,

    is the PL ratio μ: L satisfies PL* with μ on a set where the ratio is at least μ, and gradient descent with small
    steps takes L down at the rate 2ημ. ``kernel_change`` is ‖K − K(w₀)‖_F/‖K(w₀)‖_F.

    Parameters
    ----------
    every
        Optimizer steps between two evaluations.
    rows_max
        Largest kernel that is formed, in rows (examples · outputs): as many products J(Jᵀu), rows² numbers and a dense
        eigenvalue problem. Of a larger one only its largest eigenvalue is measured, and the PL ratio.

    Notes
    -----
    Jacot, Gabriel, Hongler, arXiv:1806.07572; PL* and the change of the kernel: Liu, Zhu, Belkin, arXiv:2003.00307,
    definition 2 and theorem 4, and arXiv:2010.01092.
    """

    every: int = 25
    rows_max: int = 2000

    name: ClassVar[str] = "tangent_kernel"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("kernel_max", "float64", "loss/weight²", "largest eigenvalue of the tangent kernel JJᵀ/n"),
        Column(
            "kernel_min",
            "float64",
            "loss/weight²",
            "its smallest; null above rows_max, and where rounding leaves nothing of it (then dtype=float64)",
        ),
        Column("kernel_condition", "float64", "1", "kernel_max/kernel_min"),
        Column("kernel_change", "float64", "1", "‖K − K(w₀)‖/‖K(w₀)‖ (Frobenius); null above rows_max"),
        Column("pl_ratio", "float64", "loss/weight²", "½‖∇L‖²/L of the squared loss; null for others"),
    )
    kinds: ClassVar[Mapping[str, str]] = {
        "kernel": f"the {_TOP} largest eigenvalues of the tangent kernel JJᵀ/n, largest first"
    }

    def __post_init__(self) -> None:
        """Check what no type can say."""
        super().__post_init__()
        if self.rows_max < 1:
            raise ValueError(f"rows_max must be at least 1, got {self.rows_max}")

    def prepare(self, setup: Setup) -> Kept:
        """Which outputs count, and the kernel at the start; UserError where there is no network."""
        problem = setup.problem
        places = problem.counted_outputs
        if not len(places):
            raise UserError(
                "measurement tangent_kernel is about the outputs of a network, and this problem is a function of "
                "the weights alone; make it with Problem.from_model, or leave tangent_kernel out"
            )
        terms = np.asarray(problem.num_terms, setup.gradient.dtype)
        formed = len(places) <= self.rows_max
        if not formed:
            return Kept(places, terms, None)
        kernel = curvature.dense_kernel(problem.all_outputs, problem.w0, places, terms, problem.at_once)
        return Kept(places, terms, kernel)

    def start(self, problem: Any, rows: Any) -> Any:
        """Two vectors, to be followed where the kernel is not formed."""
        return () if len(problem.counted_outputs) <= self.rows_max else rows[:_FOLLOWED]

    def __call__(self, point: Point, fixed: Kept, memory: Any) -> Measured:
        """Form the kernel and take its spectrum, or follow its largest eigenvalue."""
        problem, w, (places, terms, start) = point.problem, point.weights, fixed
        missing = w.dtype.type(np.nan)
        known = problem.is_least_squares
        values = {
            "pl_ratio": (point.linear.gradient**2).sum() / (2 * point.linear.loss) if known else missing
        }
        if start is None:
            largest, memory, products = curvature.largest_of_kernel(
                problem.all_outputs,
                w,
                memory,
                places,
                terms,
                tolerance=point.eigs.tolerance,
                max_iterations=_ITERATIONS,
            )
            values |= {"kernel_max": largest, "kernel": largest[None]}
            values |= dict.fromkeys(("kernel_min", "kernel_condition", "kernel_change"), missing)
            return Measured(values, memory, gradients=products)
        kernel = curvature.dense_kernel(problem.all_outputs, w, places, terms, problem.at_once)
        top, smallest = curvature.kernel_spectrum(kernel, _TOP)
        values |= {"kernel": top, "kernel_max": top[0], "kernel_min": smallest}
        values["kernel_condition"] = top[0] / smallest
        values["kernel_change"] = (((kernel - start) ** 2).sum() / (start**2).sum()) ** 0.5
        return Measured(values, memory, gradients=len(places))
