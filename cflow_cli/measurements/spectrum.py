"""The spectral density of the Hessian, by stochastic Lanczos quadrature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cflow_cli import curvature
from cflow_cli.measurements.base import Measured, Measurement, Point


@dataclass(frozen=True)
class Spectrum(Measurement):
    """Nodes and weights of a quadrature for the eigenvalues of H: Σ_i f(λ_i)/n ≈ Σ_j weight_j f(node_j) for any f.

    Each random probe gives as many nodes as Lanczos steps; the weights of all probes add up to one. A histogram of the
    nodes with these weights is the density.

    Parameters
    ----------
    every
        Optimizer steps between two evaluations.
    lanczos_steps
        Hessian-vector products per probe; as many vectors are in memory.
    probes
        Random vectors, the same at every step.
    seed
        Of the probes.

    Notes
    -----
    Golub and Meurant, *Matrices, Moments and Quadrature* (2010); Ghorbani, Krishnan, Xiao, arXiv:1901.10159. Lanczos
    with full reorthogonalisation is matfree's (Krämer et al., arXiv:2405.17277).
    """

    every: int = 25
    lanczos_steps: int = 30
    probes: int = 2
    seed: int = 0

    name: ClassVar[str] = "spectrum"
    kinds: ClassVar[Mapping[str, str]] = {
        "spectrum_node": "node λ_j of a quadrature for the eigenvalues of H (index: probe · steps + j)",
        "spectrum_weight": "its weight; the weights of a step add up to one",
    }

    def __post_init__(self) -> None:
        """Check what no type can say."""
        super().__post_init__()
        if self.lanczos_steps < 1 or self.probes < 1:
            raise ValueError(
                f"lanczos_steps and probes must be at least 1, got {self.lanczos_steps} and {self.probes}"
            )

    def __call__(self, point: Point, fixed: Any, memory: Any) -> Measured:
        """Nodes and weights from the tridiagonal matrix of each probe."""
        steps = min(self.lanczos_steps, point.weights.shape[0])
        nodes, weights = curvature.lanczos_quadrature(
            point.linear.hvp, point.weights, steps=steps, probes=self.probes, seed=self.seed
        )
        values = {"spectrum_node": nodes, "spectrum_weight": weights}
        return Measured(values, memory, hvps=steps * self.probes)
