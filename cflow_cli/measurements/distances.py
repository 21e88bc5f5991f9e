"""Distances between the processes of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cflow_cli.measurements.base import Measurement, Values
from cflow_cli.records import Column


@dataclass(frozen=True)
class Distances(Measurement):
    """‖w_p − w_q‖ for any two processes p, q at the same step.

    A row of p has a column ``distance_to_q`` for every other q; ``distance_to_discrete`` is in every run without this.
    """

    name: ClassVar[str] = "distances"

    def columns_for(self, processes: Sequence[str]) -> tuple[Column, ...]:
        """One column per process but the optimizer."""
        return tuple(
            Column(
                f"distance_to_{q}", "float64", "weight", f"‖w − w_{q}‖ at the same step; null for {q} itself"
            )
            for q in processes
            if q != "discrete"
        )

    def across(self, weights: Mapping[str, Any]) -> dict[str, Values]:
        """Distances of each process from the others."""
        return {
            p: {
                f"distance_to_{q}": ((weights[p] - weights[q]) ** 2).sum() ** 0.5
                for q in weights
                if q not in (p, "discrete")
            }
            for p in weights
        }
