"""Where RMSProp's preconditioner would come to rest, measured along a flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cflow_cli.measurements.base import Measured, Point, Setup
from cflow_cli.measurements.watching import Watching
from cflow_cli.records import Column


@dataclass(frozen=True)
class StationaryPreconditioner(Watching):
    """How near a flow's ν is to ν̄ = (ηP̄)², and how fast the loss would fall, ∇LᵀP⁻¹∇L, under four preconditioners.

    P = D⁻¹ (the flow's own), P̄ (:mod:`cflow_cli.flows.preconditioner`), P̄ without the second term of its program, and
    (S/2)I.

    Parameters
    ----------
    every
        Optimizer steps between two evaluations, from the flow's branch point on.
    watch
        As of the measurement ``coordinates``.
    rank, tolerance
        As of :class:`cflow_cli.flows.options.Stationary`.

    Notes
    -----
    Cohen et al., arXiv:2410.24206, section 5.
    """

    every: int = 10
    rank: int = 12
    tolerance: float = 1e-3

    name: ClassVar[str] = "stationary_preconditioner"
    oscillating_only: ClassVar[bool] = True
    from_branch_point: ClassVar[bool] = True
    columns: ClassVar[tuple[Column, ...]] = (
        Column("nu_cosine", "float64", "1", "cosine of ν = D⁻² with the stationary ν̄ = (ηP̄)²"),
        Column("speed", "float64", "loss", "optimisation speed ∇LᵀD∇L, loss per optimizer step"),
        Column(
            "speed_stationary", "float64", "loss", "the same with the stationary preconditioner, ∇LᵀP̄⁻¹∇L"
        ),
        Column("speed_trace", "float64", "loss", "the same with the P of least trace subject to H ⪯ 2P"),
        Column("speed_sharpness", "float64", "loss", "the same with P = (S/2)I, S = λ_max(H)"),
        Column(
            "stationary_gap",
            "float64",
            "1",
            "relative duality gap of the program for P̄, an upper bound of its error",
        ),
    )
    kinds: ClassVar[Mapping[str, str]] = {
        "stationary_step_size": "step size of one weight at rest, 1/P̄ (index: position in the flat weight vector)"
    }

    def __post_init__(self) -> None:
        """Check what no type can say."""
        super().__post_init__()
        if self.rank < 1 or not self.tolerance > 0:
            raise ValueError(
                f"rank must be at least 1 and tolerance positive, got {self.rank} and {self.tolerance}"
            )

    def prepare(self, setup: Setup) -> Any:
        """Indices of the watched weights, and η of a state; UserError for an optimizer that is no RMSProp."""
        # Configs are checked without JAX.
        from cflow_cli.flows.stationary import LearningRate

        return super().prepare(setup), LearningRate.of(setup.optimizer)

    def indices(self, kind: str, fixed: Any) -> np.ndarray | None:
        """Where the weights stand in the flat vector."""
        return super().indices(kind, fixed[0])

    def start(self, problem: Any, rows: Any) -> Any:
        """Random vectors for the program, with and without its second term, and for the top of H."""
        from cflow_cli.flows.resting import begin

        return begin(self.rank, rows[0])

    def __call__(self, point: Point, fixed: Any, memory: Any) -> Measured:
        """Solve both programs and find S."""
        from cflow_cli.flows.resting import compare

        places, rate = fixed
        state = point.optimizer_state
        optimizer: Any = point.optimizer  # elementwise, as `prepare` has made sure
        eta = rate(optimizer.upcoming(state, state))
        values, p, after, hvps = compare(point.linear, point.step_size, eta, memory, self.tolerance)
        return Measured(values | {"stationary_step_size": (1 / p)[places]}, after, hvps=hvps)
