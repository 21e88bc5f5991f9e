"""A run on disk: Parquet parts, a manifest, the resolved config. Nothing here imports JAX."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cflow_cli.storage.kernels import Kernel, find_kernels, read_kernel
    from cflow_cli.storage.manifests import environment
    from cflow_cli.storage.mending import faults
    from cflow_cli.storage.reader import Run, find_runs, read_config, read_run
    from cflow_cli.storage.writer import RunWriter

__all__ = [
    "Kernel",
    "Run",
    "RunWriter",
    "environment",
    "faults",
    "find_kernels",
    "find_runs",
    "read_config",
    "read_kernel",
    "read_run",
]

_MODULES = {
    "Kernel": "kernels",
    "Run": "reader",
    "RunWriter": "writer",
    "environment": "manifests",
    "faults": "mending",
    "find_kernels": "kernels",
    "find_runs": "reader",
    "read_config": "reader",
    "read_kernel": "kernels",
    "read_run": "reader",
}


def __getattr__(name: str) -> Any:
    """Import on first use: a list of runs takes manifests alone, without a second for pandas and pyarrow."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
