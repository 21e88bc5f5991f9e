"""Options of a simulation, as plain dataclasses that both Python callers and the configs fill in.

Nothing here imports JAX, so that the command line can check a configuration quickly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from .errors import UserError

if TYPE_CHECKING:
    from .flows.base import Stepper
    from .optimizers.update_map import UpdateMap


@dataclass(frozen=True)
class EigsOptions:
    """How the top of the spectrum of D^½ H D^½ is tracked.

    Parameters
    ----------
    track_above
        Every effective eigenvalue above this is tracked; the block grows and shrinks by itself.
    critical_above
        Eigenvalues above this are candidates for the edge: the flow may oscillate along them.
    initial
        Size of the block at the start and at least; None for 6 below 50,000 weights, where a recompilation costs more
        than the products it saves, else 4.
    guard
        Vectors kept beyond those above ``track_above``, so that none enters unseen.
    max_tracked
        Largest block; a process that needs more stops with ``too_many_tracked``.
    tolerance
        Wanted residual ‖A v − λ v‖ of the critical pairs, as a part of λ.
    max_iterations
        Block iterations (of one block of Hessian-vector products each) allowed per step.
    every
        Steps between two measurements of the spectrum of observed processes (discrete, midpoint).
        Flows need it at each step.
    hessian_every
        Steps between two measurements of the raw Hessian's sharpness, 0 for never; where D is
        uniform it follows from S_eff at no cost and is there at every step.
    max_sharpness
        A flow whose S_eff passes this is stopped (``too_sharp``).
    """

    track_above: float = 1.8
    critical_above: float = 1.95
    initial: int | None = None
    guard: int = 1
    max_tracked: int = 32
    tolerance: float = 0.03
    max_iterations: int = 4
    every: int = 1
    hessian_every: int = 10
    max_sharpness: float = 100.0

    def __post_init__(self) -> None:
        """Check what no type can say."""
        if not 0 < self.track_above < self.critical_above < 2:
            raise ValueError(
                "eigs: need 0 < track_above < critical_above < 2, "
                f"got track_above={self.track_above}, critical_above={self.critical_above}"
            )
        initial = self.guard + 1 if self.initial is None else self.initial
        if not 1 <= self.guard < initial <= self.max_tracked:
            raise ValueError(
                "eigs: need 1 <= guard < initial <= max_tracked, "
                f"got guard={self.guard}, initial={self.initial}, max_tracked={self.max_tracked}"
            )
        if self.every < 1 or self.hessian_every < 0 or self.max_iterations < 1:
            raise ValueError("eigs: every and max_iterations must be at least 1, hessian_every at least 0")
        if self.tolerance <= 0:
            raise ValueError(f"eigs.tolerance must be positive, got {self.tolerance}")


@dataclass(frozen=True)
class Discrete:
    """The real optimizer: a plain optax loop, measured at every iterate."""

    name = "discrete"


@dataclass(frozen=True)
class Midpoint:
    """The oscillation-free view of the real optimizer, w* = (w₋ + 2w + w₊)/4, measured, not stepped."""

    name = "midpoint"


@dataclass(frozen=True)
class Flow:
    """A flow stepped beside the optimizer.

    Parameters
    ----------
    substeps
        Sub-steps per optimizer step; time step dt = 1/substeps.
    """

    substeps: int = 1

    def __post_init__(self) -> None:
        """Check what no type can say."""
        if self.substeps < 1:
            raise ValueError(f"substeps must be at least 1, got {self.substeps}")

    name: ClassVar[str]
    oscillates: ClassVar[bool] = True
    penalty: ClassVar[bool] = True

    def stepper(self, optimizer: UpdateMap, eigs: EigsOptions) -> Stepper:
        """The step function of this flow, by default that of the central flow."""
        import jax

        from .flows.central import CentralStepper

        if self.oscillates and not optimizer.stiffens:
            raise UserError(
                f"no {self.name} flow for this optimizer: a small oscillation shrinks its second moment (as Yogi's), "
                "so no single variance holds S_eff at 2; run it with 'processes=[discrete,midpoint,stable,rod]'"
            )

        # On a processor single third derivatives were measured no slower than batches, and they need less memory.
        batch = 1 if jax.default_backend() == "cpu" else 3
        return CentralStepper(
            optimizer,
            1 / self.substeps,
            eigs.track_above,
            eigs.critical_above,
            eigs.tolerance,
            batch,
            self.penalty,
        )


@dataclass(frozen=True)
class Stable(Flow):
    """The smooth limit of the optimizer when it does not oscillate (X = 0)."""

    name = "stable"
    oscillates = False


@dataclass(frozen=True)
class Central(Flow):
    """The time average of the oscillating optimizer, with X from the complementarity problem.

    Parameters
    ----------
    substeps
        Sub-steps per optimizer step; time step dt = 1/substeps.
    thirds_every
        Sub-steps that third derivatives serve, turned with the critical directions, while those stay in one span.
    stationary_every
        Optimizer steps between two measurements of RMSProp's stationary preconditioner along the flow, from its branch
        point on; 0 for never.
    """

    name = "central"
    thirds_every: int = 1
    stationary_every: int = 0

    def __post_init__(self) -> None:
        """Check what no type can say."""
        super().__post_init__()
        if self.thirds_every < 1:
            raise ValueError(f"thirds_every must be at least 1, got {self.thirds_every}")
        if self.stationary_every < 0:
            raise ValueError(f"stationary_every must not be negative, got {self.stationary_every}")

    def stepper(self, optimizer: UpdateMap, eigs: EigsOptions) -> Stepper:
        """The central flow's, watched where that is wanted; UserError for an optimizer that cannot be."""
        own: Any = super().stepper(optimizer, eigs)
        own = replace(own, thirds_every=self.thirds_every)
        if not self.stationary_every:
            return own
        from .flows.stationary import LearningRate, Watched

        every = self.stationary_every * self.substeps
        return Watched(own, LearningRate.of(optimizer), every, Stationary.rank, Stationary.tolerance)


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
    rank: int = 12
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        """Check what no type can say."""
        super().__post_init__()
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be positive, got {self.tolerance}")

    def stepper(self, optimizer: UpdateMap, eigs: EigsOptions) -> Stepper:
        """The step function of the stationary flow; UserError for all but RMSProp."""
        from .flows.stationary import LearningRate, StationaryStepper

        return StationaryStepper(
            LearningRate.of(optimizer),
            1 / self.substeps,
            eigs.track_above,
            eigs.critical_above,
            eigs.tolerance,
            self.rank,
            self.tolerance,
        )


@dataclass(frozen=True)
class Ablated(Flow):
    """The central flow without the curvature penalty in dw/dt: the oscillation acts on the second moments only.

    X comes from the same complementarity conditions, so the second moments alone hold S_eff at 2: the flow takes
    smaller steps into sharper regions and falls behind [Cohen et al., arXiv:2410.24206, section 5].
    """

    name = "ablated"
    penalty = False

    def stepper(self, optimizer: UpdateMap, eigs: EigsOptions) -> Stepper:
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

    def stepper(self, optimizer: UpdateMap, eigs: EigsOptions) -> Stepper:
        """The step function of rod flow."""
        from .flows.rod import RodStepper

        return RodStepper(optimizer, 1 / self.substeps, eigs.track_above, eigs.critical_above, eigs.tolerance)


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

    def stepper(self, optimizer: UpdateMap, eigs: EigsOptions) -> Stepper:
        """The step function of edge flow; UserError for all but gradient descent."""
        from .flows.edge import EdgeStepper

        if set(optimizer.parity) - {"counter"}:
            raise UserError(
                "no edge flow for this optimizer: it is known for gradient descent only; take edge out of the "
                "processes (rod is the same idea for any optimizer), or choose optimizer=gd"
            )
        return EdgeStepper(
            optimizer, 1 / self.substeps, eigs.track_above, eigs.critical_above, eigs.tolerance, self.floor
        )


BUILT_IN = (Discrete, Midpoint, Stable, Central, Ablated, Stationary, Rod, Edge)
"""Every process that comes with the package, selectable by its ``name``."""
