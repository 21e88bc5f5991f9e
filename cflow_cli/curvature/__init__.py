"""Tops of spectra: of D^½ H D^½, followed along a trajectory, of blocks of H, of a network's tangent kernel."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cflow_cli.curvature.block import track
    from cflow_cli.curvature.kernel import dense_kernel, kernel_spectrum, largest_of_kernel
    from cflow_cli.curvature.layers import largest_of_blocks
    from cflow_cli.curvature.outputs import output_derivatives
    from cflow_cli.curvature.quadrature import lanczos_quadrature

__all__ = [
    "dense_kernel",
    "kernel_spectrum",
    "lanczos_quadrature",
    "largest_of_blocks",
    "largest_of_kernel",
    "output_derivatives",
    "track",
]

_MODULES = {
    "dense_kernel": "kernel",
    "kernel_spectrum": "kernel",
    "lanczos_quadrature": "quadrature",
    "largest_of_blocks": "layers",
    "largest_of_kernel": "kernel",
    "output_derivatives": "outputs",
    "track": "block",
}


def __getattr__(name: str) -> Any:
    """Import on first use: measurements are checked without JAX."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
