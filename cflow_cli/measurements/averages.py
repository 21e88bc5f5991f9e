"""Averages that a flow predicts for functions of the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

if TYPE_CHECKING:
    from cflow_cli.measurements.base import Point, Values


def time_average(function: Callable[[Array], Any], point: Point, values: Values) -> Values:
    """Time average f + ½⟨∇²f, Σ⟩ of a function of the weights, from the oscillation of a flow.

    Parameters
    ----------
    function
        w ↦ pytree of arrays.
    point
        Of a flow: its oscillation X in the basis of the tracked eigenvectors v, Σ = D^½VᵀXVD^½.
    values
        f(w), of the same structure.
    """
    assert point.oscillation is not None
    root = 1 if point.optimizer.is_operator else jnp.sqrt(point.step_size)
    # Along the axes of X as many second derivatives as it has rank; along pairs it would be their number squared.
    sizes, axes = jnp.linalg.eigh(point.oscillation.x)
    sizes, axes = jnp.sqrt(jnp.maximum(sizes[::-1], 0)), axes[:, ::-1].T

    def bend(direction: Array) -> Any:
        def slope(t: Array) -> Any:
            return jax.jvp(lambda s: function(point.weights + s * direction), (t,), (jnp.ones_like(t),))[1]

        zero = jnp.zeros((), point.weights.dtype)
        return jax.jvp(slope, (zero,), (jnp.ones_like(zero),))[1]

    def add(a: Array, total: Any) -> Any:
        direction = sizes[a] * root * (axes[a] @ point.vectors)
        return jax.tree.map(lambda s, b: s + b / 2, total, bend(direction))

    return jax.lax.fori_loop(0, point.critical, add, values)
