"""The tangent kernel K = J Jᵀ of a network's outputs, J their Jacobian by the weights, and its spectrum.

J is never formed: K is made of products u ↦ J(Jᵀu), which share one linearisation. Memory is that of K itself, and any
function of the weights will do, also one in which examples meet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from cflow_cli.curvature.block import track

Outputs = Callable[[Float[Array, " params"]], Float[Array, " all"]]
Places = Int[Array, " rows"] | Int[np.ndarray, " rows"]

# Columns of K that are computed at once: products of matrices instead of vectors, few enough for a CPU's cache.
_AT_ONCE = 32
# Of an eigenvalue that is a smaller part of the largest than this many roundings, hardly a digit is right.
_ROUNDINGS = 8


class KernelSpectrum(NamedTuple):
    """Eigenvalues of K/n.

    Parameters
    ----------
    top
        The largest, in falling order.
    smallest
        λ_min; NaN where rounding leaves nothing of it.
    """

    top: Float[Array, " top"]
    smallest: Float[Array, ""]


@eqx.filter_jit
def dense_kernel(
    outputs: Outputs,
    w: Float[Array, " params"],
    places: Places,
    terms: ArrayLike,
    at_once: int | None = None,
) -> Float[Array, "rows rows"]:
    """K/n with all its rows, one product J(Jᵀe) for each.

    Parameters
    ----------
    outputs
        w ↦ all outputs of the network, flat.
    w
        Weights, shape (n,).
    places
        Which outputs take part.
    terms
        n, terms of the mean that is the loss: K/n has the unit of the Hessian.
    at_once
        Most columns that are computed at once; None for as many as a CPU's cache has room for.
    """
    along, back = _products(outputs, w, places)

    def column(place: Array) -> Array:
        return along(back(jnp.zeros(len(places), w.dtype).at[place].set(1)))

    k = jax.lax.map(column, jnp.arange(len(places)), batch_size=min(at_once or _AT_ONCE, len(places)))
    return (k + k.T) / (2 * terms)


def kernel_spectrum(kernel: Float[Array, "rows rows"], top: int) -> KernelSpectrum:
    """The ``top`` largest eigenvalues of K/n and its smallest, by a dense solver in the kernel's precision."""
    values = jnp.linalg.eigvalsh(kernel, symmetrize_input=False)
    lost = values[0] < _ROUNDINGS * jnp.finfo(values.dtype).eps * values[-1]
    return KernelSpectrum(values[::-1][:top], jnp.where(lost, jnp.nan, values[0]))


def largest_of_kernel(
    outputs: Outputs,
    w: Float[Array, " params"],
    vectors: Float[Array, "block params"],
    places: Places,
    terms: ArrayLike,
    *,
    tolerance: float,
    max_iterations: int,
) -> tuple[Float[Array, ""], Float[Array, "block params"], Int[Array, ""]]:
    """λ_max(K)/n without K: that of JᵀJ/n, whose eigenvectors, of the form of the weights, are followed.

    Parameters
    ----------
    outputs, w, places, terms
        As of :func:`dense_kernel`.
    vectors
        Where to start from.
    tolerance, max_iterations
        As of :func:`cflow_cli.curvature.block.track`.

    Returns
    -------
    value, vectors, products
        λ_max(K)/n, where to look at the next point, and products Jᵀ(Jv) spent.
    """
    along, back = _products(outputs, w, places)
    pairs = track(
        lambda rows: jax.lax.map(lambda v: back(along(v)) / terms, rows),
        vectors,
        above=jnp.inf,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return pairs.values[0], pairs.ahead, pairs.hvps


def _products(
    outputs: Outputs, w: Float[Array, " params"], places: Places
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """V ↦ J v and u ↦ Jᵀ u."""
    _, along = jax.linearize(lambda w: outputs(w)[places], w)
    transposed = jax.linear_transpose(along, w)
    return along, lambda u: transposed(u)[0]
