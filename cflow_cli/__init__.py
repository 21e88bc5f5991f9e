"""Central flows: an optimizer and the differential equation of its time average, side by side."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Problem", "Result", "connect", "load", "simulate"]

if TYPE_CHECKING:
    from cflow_cli.paths.connecting import connect
    from cflow_cli.problem import Problem
    from cflow_cli.results.result import Result, load
    from cflow_cli.results.simulating import simulate

_MODULES = {
    "Problem": "problem",
    "Result": "results.result",
    "connect": "paths.connecting",
    "load": "results.result",
    "simulate": "results.simulating",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the command line answers ``--help`` without JAX, and a run is loaded without."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
