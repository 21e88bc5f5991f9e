"""How eigenvalues are tracked: settings, without JAX, so that a config is checked quickly."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EigsOptions:
    """How the top of the spectrum of D^½ H D^½ is tracked.

    Parameters
    ----------
    track_above
        Every effective eigenvalue above this is tracked; the block grows and shrinks by itself.
    critical_above
        Eigenvalues above this are candidates for the edge: the flow may oscillate along them.
    block
        Size of the block at the start and at least; None for 6 below 50,000 weights, where a recompilation costs more
        than the products it saves, else 4.
    guard_vectors
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
    max_sharpness
        A flow whose S_eff passes this is stopped (``too_sharp``).
    """

    track_above: float = 1.8
    critical_above: float = 1.95
    block: int | None = None
    guard_vectors: int = 1
    max_tracked: int = 32
    tolerance: float = 0.03
    max_iterations: int = 4
    every: int = 1
    max_sharpness: float = 100.0

    def __post_init__(self) -> None:
        """Check what no type can say."""
        if not 0 < self.track_above < self.critical_above < 2:
            raise ValueError(
                "eigs: need 0 < track_above < critical_above < 2, "
                f"got track_above={self.track_above}, critical_above={self.critical_above}"
            )
        block = self.guard_vectors + 1 if self.block is None else self.block
        if not 1 <= self.guard_vectors < block <= self.max_tracked:
            raise ValueError(
                "eigs: need 1 <= guard_vectors < block <= max_tracked, "
                f"got guard_vectors={self.guard_vectors}, block={self.block}, max_tracked={self.max_tracked}"
            )
        if self.every < 1 or self.max_iterations < 1:
            raise ValueError("eigs: every and max_iterations must be at least 1")
        if self.tolerance <= 0:
            raise ValueError(f"eigs.tolerance must be positive, got {self.tolerance}")
