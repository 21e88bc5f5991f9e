"""Central flows: an optimizer and the differential equation of its time average, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Problem", "simulate"]

if TYPE_CHECKING:
    from cflow_cli.engine.simulation import simulate
    from cflow_cli.problem import Problem


def __getattr__(name: str) -> Any:
    """Import on first use: the command line answers ``--help`` without JAX."""
    if name == "Problem":
        from cflow_cli.problem import Problem

        return Problem
    if name == "simulate":
        from cflow_cli.engine.simulation import simulate

        return simulate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
