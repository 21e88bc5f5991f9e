"""Settings of the flows, without JAX, so that a config is checked quickly; each names the module of its step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from cflow_cli.curvature.options import EigsOptions
from cflow_cli.errors import UserError
from cflow_cli.records import Column

if TYPE_CHECKING:
    from cflow_cli.flows.base import Stepper
    from cflow_cli.optimizers.operator_map import OperatorMap
    from cflow_cli.optimizers.update_map import UpdateMap


def _modules() -> Any:
    """The modules of the steps; late, because configs are checked without JAX."""
    from cflow_cli.flows import central, edge, operator, rod, stationary, two_phase

    modules = {
        m.__name__.rpartition(".")[2]: m for m in (central, edge, operator, rod, stationary, two_phase)
    }
    return SimpleNamespace(**modules)


def _check_elementwise(name: str, optimizer: UpdateMap | OperatorMap) -> None:
    if optimizer.is_operator:
        raise UserError(
            f"no {name} flow for this optimizer: it is known for elementwise ones only; take {name} out of the "
            "processes (stable and central work)"
        )


@dataclass(frozen=True)
class Flow:
    """A flow stepped beside the optimizer.

    Parameters
    ----------
    substeps
        Sub-steps per optimizer step; time step dt = 1/substeps. A flow that is to hold S_eff at 2 takes up to eight
        times as many by itself where curvature changes too much in one step.
    """

    substeps: int = 1

    def __post_init__(self) -> None:
        """Check what no type can say."""
        if self.substeps < 1:
            raise ValueError(f"substeps must be at least 1, got {self.substeps}")

    name: ClassVar[str]
    is_flow: ClassVar[bool] = True
    branches: ClassVar[bool] = True
    first_step: ClassVar[int] = 0
    oscillates: ClassVar[bool] = True
    penalty: ClassVar[bool] = True
    holds_the_edge: ClassVar[bool] = False
    """Whether its step solves for S_eff = 2, so that sub-steps help where it ends elsewhere."""
    columns: ClassVar[tuple[Column, ...]] = ()
    """Columns that only this flow knows: what its step puts into ``extra``."""

    def beside(self, kick: float) -> Flow:
        """The flow beside an optimizer that gets kicks of this norm; most do not mind."""
        return self

    @property
    def switch(self) -> bool:
        """The bit in which flows differ that share a compiled program: whether they oscillate."""
        return self.oscillates

    def stepper(self, optimizer: Any, eigs: EigsOptions) -> Stepper:
        """The step function of this flow, by default that of the central flow."""
        modules = _modules()
        if self.oscillates and not optimizer.stiffens:
            raise UserError(
                f"no {self.name} flow for this optimizer: a small oscillation shrinks its second moment (as Yogi's), "
                "so no single variance holds S_eff at 2; run it with 'processes=[discrete,midpoint,stable,rod]'"
            )

        batch = modules.central.suitable_batch()
        if optimizer.is_operator:
            if self.substeps > 1:
                raise UserError(
                    f"this optimizer is not elementwise, and its flows take whole steps: set processes.{self.name}."
                    f"substeps=1 (got {self.substeps})"
                )
            return modules.operator.OperatorStepper(optimizer, eigs, batch, self.penalty)
        return modules.central.CentralStepper(optimizer, eigs, 1 / self.substeps, batch, self.penalty)


@dataclass(frozen=True)
class Stable(Flow):
    """The smooth limit of the optimizer when it does not oscillate (X = 0)."""

    name = "stable"
    holds_the_edge = True  # in the program that it shares with the central flow
    oscillates = False


@dataclass(frozen=True)
class Central(Flow):
    """The time average of the oscillating optimizer, with X from the complementarity problem.

    Parameters
    ----------
    substeps
        Sub-steps per optimizer step; time step dt = 1/substeps.
    third_derivatives_every
        Sub-steps that third derivatives serve, turned with the critical directions, while those stay in one span; or
        "auto", for as many as they foretell the curvature along those within 0.003, eight at most, and where all that
        is kept takes 256 MB at most.
    """

    name = "central"
    holds_the_edge = True
    third_derivatives_every: int | str = 1

    def __post_init__(self) -> None:
        """Check what no type can say."""
        super().__post_init__()
        every = self.third_derivatives_every
        if every != "auto" and not (isinstance(every, int) and every >= 1):
            raise ValueError(f"third_derivatives_every must be at least 1, or auto; got {every}")

    def stepper(self, optimizer: Any, eigs: EigsOptions) -> Stepper:
        """The central flow's; UserError for an optimizer that cannot be."""
        own: Any = super().stepper(optimizer, eigs)
        every = self.third_derivatives_every
        if optimizer.is_operator:
            if every not in (1, "auto"):
                raise UserError(
                    "this optimizer is not elementwise, and its central flow computes third derivatives at every "
                    "step: set processes.central.third_derivatives_every=1"
                )
            return own
        return replace(own, third_derivatives_every=None if every == "auto" else every)


@dataclass(frozen=True)
class Stationary(Flow):
    """The stationary flow of RMSProp: dw/dt = −P̄⁻¹(∇L + ½∇⟨H, Σ⟩), the second moment always at rest.

    Parameters
    ----------
    substeps
        Sub-steps per optimizer step; time step dt = 1/substeps.
    rank
        Most directions of oscillation that the program for P̄ may use; each costs Hessian-vector products.
    tolerance
        Of the relative duality gap of that program, which bounds its error.
    """

    name = "stationary"
    columns = (
        Column(
            "stationary_gap",
            "float64",
            "1",
            "relative duality gap of the program for P̄, which bounds its error",
        ),
        Column(
            "speed_stationary",
            "float64",
            "loss",
            "optimisation speed under the stationary preconditioner, ∇LᵀP̄⁻¹∇L",
        ),
    )
    rank: int = 12
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        """Check what no type can say."""
        super().__post_init__()
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be positive, got {self.tolerance}")

    def stepper(self, optimizer: Any, eigs: EigsOptions) -> Stepper:
        """The step function of the stationary flow; UserError for all but RMSProp."""
        _check_elementwise(self.name, optimizer)
        stationary = _modules().stationary
        rate = stationary.LearningRate.of(optimizer)
        return stationary.StationaryStepper(rate, eigs, 1 / self.substeps, self.rank, self.tolerance)


@dataclass(frozen=True)
class Ablated(Flow):
    """The central flow without the curvature penalty in dw/dt: the oscillation acts on the second moments only.

    X comes from the same complementarity conditions, so the second moments alone hold S_eff at 2: the flow takes
    smaller steps into sharper regions and falls behind [Cohen et al., arXiv:2410.24206, section 5].
    """

    name = "ablated"
    holds_the_edge = True
    penalty = False

    def stepper(self, optimizer: Any, eigs: EigsOptions) -> Stepper:
        """The central flow's, without the penalty; UserError for an optimizer without second moments."""
        if not optimizer.adaptive:
            raise UserError(
                "no ablated flow for this optimizer: without second moments nothing but the curvature penalty can "
                "hold S_eff at 2; take ablated out of the processes, or choose optimizer=rmsprop or adam"
            )
        return super().stepper(optimizer, eigs)


@dataclass(frozen=True)
class Rod(Flow):
    """Rod flow: two points w ± δ that stand for two consecutive iterates, for any optimizer that has flows.

    Parameters
    ----------
    substeps
        At least 2, for the stiff equation of the centre; it is stable up to S_eff ≈ √(4·substeps + 1) − 1.
    """

    name = "rod"
    substeps: int = 4

    def __post_init__(self) -> None:
        """Check what no type can say."""
        if self.substeps < 2:
            raise ValueError(f"substeps must be at least 2 for rod flow, got {self.substeps}")

    def stepper(self, optimizer: Any, eigs: EigsOptions) -> Stepper:
        """The step function of rod flow."""
        _check_elementwise(self.name, optimizer)
        return _modules().rod.RodStepper(optimizer, eigs, 1 / self.substeps)


@dataclass(frozen=True)
class Edge(Flow):
    """Edge flow of gradient descent: a centre, a direction and an amplitude.

    Parameters
    ----------
    substeps
        Sub-steps per optimizer step; the centre is stable up to S_eff = 2·substeps.
    floor
        Smallest amplitude, in units of the weights. Rounding and drift keep that of the real optimizer from vanishing
        below the edge; the equations have nothing that does.
    """

    name = "edge"
    substeps: int = 4
    floor: float = 1e-4

    def __post_init__(self) -> None:
        """Check what no type can say."""
        super().__post_init__()
        if not self.floor > 0:
            raise ValueError(f"floor must be positive, got {self.floor}")

    def stepper(self, optimizer: Any, eigs: EigsOptions) -> Stepper:
        """The step function of edge flow; UserError for all but gradient descent."""
        _check_elementwise(self.name, optimizer)
        if set(optimizer.parity) - {"counter"}:
            raise UserError(
                "no edge flow for this optimizer: it is known for gradient descent only; take edge out of the "
                "processes (rod is the same idea for any optimizer), or choose optimizer=gd"
            )
        return _modules().edge.EdgeStepper(optimizer, eigs, 1 / self.substeps, self.floor)


@dataclass(frozen=True)
class TwoPhase(Flow):
    """The optimizer in even and odd coordinates: a centre, and an oscillation that changes its sign at each step.

    Parameters
    ----------
    noise
        Norm of the noise in each step, from which the oscillation starts; None for that of the run's kicks. Rounding,
        ε‖w‖ with the ε of the precision, comes on top.
    seeded_above
        Effective eigenvalue from which directions are seeded.
    kept_above
        Tracked effective eigenvalue from which the oscillation keeps its part along a direction.
    """

    name = "two_phase"
    substeps: int = field(default=1, init=False)  # it is the optimizer's own step
    noise: float | None = None
    seeded_above: float = 1.5
    kept_above: float = 0.2

    def __post_init__(self) -> None:
        """Check what no type can say."""
        super().__post_init__()
        if self.noise is not None and not self.noise >= 0:
            raise ValueError(f"noise must not be negative, got {self.noise}")
        if not 0 <= self.kept_above <= self.seeded_above < 2:
            raise ValueError(
                "kept_above and seeded_above must lie between 0 and 2, the first not above the second, "
                f"got {self.kept_above} and {self.seeded_above}"
            )

    def beside(self, kick: float) -> Flow:
        """The flow with these kicks for its noise, where it has none of its own."""
        return self if self.noise is not None else replace(self, noise=kick)

    def stepper(self, optimizer: Any, eigs: EigsOptions) -> Stepper:
        """The step function of the two-phase flow."""
        _check_elementwise(self.name, optimizer)
        step = _modules().two_phase.TwoPhaseStepper
        return step(optimizer, eigs, self.noise or 0.0, self.seeded_above, self.kept_above)
