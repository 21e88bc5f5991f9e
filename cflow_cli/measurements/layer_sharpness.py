"""The largest eigenvalue of every layer's own block of the Hessian."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cflow_cli import curvature
from cflow_cli.measurements.base import Measured, Measurement, Point, Setup


@dataclass(frozen=True)
class LayerSharpness(Measurement):
    """λ_max of each diagonal block of H, a block per layer (:attr:`cflow_cli.problem.Problem.layers`).

    Parameters
    ----------
    every
        Optimizer steps between two evaluations.
    tolerance
        Residual of each eigenvector, as a part of its eigenvalue.
    max_iterations
        Expansions allowed per layer, two Hessian-vector products each.
    """

    every: int = 10
    tolerance: float = 0.03
    max_iterations: int = 100

    name: ClassVar[str] = "layer_sharpness"
    kinds: ClassVar[Mapping[str, str]] = {
        "layer_sharpness": "largest eigenvalue of a layer's diagonal block of H (index: layer, as the manifest lists)"
    }

    def __post_init__(self) -> None:
        """Check what no type can say."""
        super().__post_init__()
        if not self.tolerance > 0 or self.max_iterations < 1:
            raise ValueError(
                "tolerance must be positive and max_iterations at least 1, "
                f"got {self.tolerance} and {self.max_iterations}"
            )

    def prepare(self, setup: Setup) -> Any:
        """Which layer each weight belongs to, shape (n,)."""
        sizes = [size for _, size in setup.problem.layers]
        return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)

    def start(self, problem: Any, rows: Any) -> Any:
        """One vector: its part in each layer is where that layer's search starts."""
        return rows[0]

    def __call__(self, point: Point, fixed: Any, memory: Any) -> Measured:
        """Follow the top eigenvector of each block in turn, all in one program."""
        values, vectors, hvps = curvature.largest_of_blocks(
            point.linear.hvp,
            fixed,
            memory,
            len(point.problem.layers),
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )
        return Measured({"layer_sharpness": values}, vectors, hvps=hvps)
