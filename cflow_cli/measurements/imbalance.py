"""The law that gradient flow keeps on a product of matrices, and that an oscillation breaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cflow_cli.measurements.base import Measurement, Setup, Values
from cflow_cli.measurements.singular_values import check_factors


@dataclass(frozen=True)
class Imbalance(Measurement):
    """D_j = W_{j+1}ᵀW_{j+1} − W_jW_jᵀ, entry by entry: gradient flow conserves it.

    A step of gradient descent changes it by η²(G_{j+1}ᵀG_{j+1} − G_jG_jᵀ) with G = ∂L/∂W, and the central flow of
    gradient descent by dD_j/dt = 4 E[δ_{j+1}ᵀδ_{j+1} − δ_jδ_jᵀ] with the oscillation δ. The expectation is what flows
    predict for the average of D_j, less D_j itself.

    Parameters
    ----------
    every
        Optimizer steps between two evaluations.
    """

    every: int = 10

    name: ClassVar[str] = "imbalance"
    predicted: ClassVar[bool] = True
    kinds: ClassVar[Mapping[str, str]] = {
        "imbalance_entry": "entry of D_j = W_{j+1}ᵀW_{j+1} − W_jW_jᵀ, j after j: those on its diagonal, and √2 times "
        "those above it"
    }

    def prepare(self, setup: Setup) -> Any:
        """Nothing, for a product of matrices; UserError for another model."""
        check_factors(setup, self.name)
        return ()

    def value(self, problem: Any, w: Any) -> Values:
        """The D_j, one after the other."""
        return {"imbalance_entry": problem.model(w).imbalance_entries()}
