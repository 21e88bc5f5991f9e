"""The tangent kernel of a network of finite width, at given weights."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

# Numbers of the Jacobian that are in memory at once.
_LARGEST = 1 << 26


def tangent_kernel(
    apply: Callable[[Array, Array], Array], weights: Float[Array, " params"], x: Float[Array, "N ..."]
) -> NDArray:
    """Θ[i, j] = (1/k) Σ_o ∇f_o(x_i)·∇f_o(x_j), the mean over outputs of their tangent kernels, (N, N).

    In the limit of wide layers each output has the same kernel, and different outputs none in common.

    Parameters
    ----------
    apply
        (weights, inputs) -> outputs (n, k).
    weights
        Where.
    x
        Inputs.
    """
    outputs = eqx.filter_eval_shape(apply, weights, x[:1]).shape[-1]
    rows = max(1, _LARGEST // (outputs * len(weights)))
    kernel = np.zeros((len(x), len(x)), weights.dtype)
    for first in range(0, len(x), rows):
        own = _jacobian(apply, weights, x[first : first + rows])
        for second in range(first, len(x), rows):
            other = own if second == first else _jacobian(apply, weights, x[second : second + rows])
            block = np.asarray(_products(own, other))
            kernel[first : first + rows, second : second + rows] = block
            kernel[second : second + rows, first : first + rows] = block.T
    return kernel


@eqx.filter_jit
def _jacobian(
    apply: Callable[[Array, Array], Array], weights: Array, x: Array
) -> Float[Array, "rows k params"]:
    """Of each input by itself, so that no other has a part in it."""
    return jax.vmap(lambda each: jax.jacrev(lambda w: apply(w, each[None])[0])(weights))(x)


@jax.jit
def _products(a: Array, b: Array) -> Array:
    return jnp.einsum("iop,jop->ij", a, b) / a.shape[1]
