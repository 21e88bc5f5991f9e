"""The tangent kernel of a network of finite width, at given weights."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

# Numbers of the gradients that are in memory at once.
_LARGEST = 1 << 27


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

    Notes
    -----
    Every gradient is taken once, of one output and as many inputs as fit into memory. Its products with those of the
    other inputs are derivatives along it, ∇f_o(x_i)·∇f_o(x_j) = D f_o(x_j)[∇f_o(x_i)], for which no second gradient is
    needed.
    """
    outputs = eqx.filter_eval_shape(apply, weights, x[:1]).shape[-1]
    rows = max(1, _LARGEST // len(weights))
    kernel = np.zeros((len(x), len(x)), weights.dtype)
    for first in range(0, len(x), rows):
        own, others = slice(first, first + rows), slice(first + rows, None)
        for output in map(jnp.asarray, range(outputs)):
            gradients = _gradients(apply, weights, x[own], output)
            kernel[own, own] += np.asarray(gradients @ gradients.T)
            if len(x[others]):
                kernel[own, others] += np.asarray(_along(apply, weights, gradients, x[others], output))
        kernel[others, own] = kernel[own, others].T
    return kernel / outputs


# Of each input by itself, so that no other has a part in it.
def _output(
    apply: Callable[[Array, Array], Array], weights: Array, x: Array, output: Int[Array, ""]
) -> Array:
    return apply(weights, x[None])[0, output]


@eqx.filter_jit
def _gradients(
    apply: Callable[[Array, Array], Array], weights: Array, x: Array, output: Int[Array, ""]
) -> Float[Array, "rows params"]:
    return jax.vmap(lambda each: jax.grad(lambda w: _output(apply, w, each, output))(weights))(x)


@eqx.filter_jit
def _along(
    apply: Callable[[Array, Array], Array],
    weights: Array,
    directions: Float[Array, "rows params"],
    x: Array,
    output: Int[Array, ""],
) -> Float[Array, "rows others"]:
    def values(w: Array) -> Array:
        return jax.vmap(lambda each: _output(apply, w, each, output))(x)

    return jax.lax.map(lambda direction: jax.jvp(values, (weights,), (direction,))[1], directions)
