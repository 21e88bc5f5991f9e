"""Shampoo: each matrix of weights is preconditioned from the left and from the right, which optax does not have."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


class ScaleByShampooState(NamedTuple):
    """Number of steps taken, and EMAs of GGᵀ and GᵀG of each matrix; of a vector those of g² and nothing."""

    count: Int[Array, ""]  # type: ignore[assignment]  # optax's name for it, over tuple.count
    left: Any
    right: Any


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def power(m: Float[Array, "n n"], exponent: float) -> Float[Array, "n n"]:
    """M^p of a symmetric positive definite matrix.

    Its derivative is that of Daleckii and Krein, with divided differences of the eigenvalues' powers, which stays
    finite where eigenvalues meet; that of the eigenvectors does not.
    """
    values, basis = _eigh(m)
    return (basis * values**exponent) @ basis.T


@power.defjvp
def _derivative(exponent: float, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    values, basis = _eigh(primals[0])
    powers = values**exponent
    gap = values[:, None] - values
    middle = (values[:, None] + values) / 2
    near = jnp.abs(gap) < 1e-3 * middle
    slopes = exponent * middle ** (exponent - 1)
    quotients = jnp.where(near, slopes, (powers[:, None] - powers) / jnp.where(near, 1, gap))
    moved = basis @ (quotients * (basis.T @ tangents[0] @ basis)) @ basis.T
    return (basis * powers) @ basis.T, moved


def _eigh(m: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    values, basis = jnp.linalg.eigh(m)
    return jnp.maximum(values, jnp.finfo(m.dtype).tiny), basis


def scale_by_shampoo(b2: float = 0.99, eps: float = 1e-6) -> optax.GradientTransformation:
    """Multiply the gradient of each matrix by L̂^{−1/4} from the left and R̂^{−1/4} from the right.

    L' = β₂L + (1 − β₂)GGᵀ and R' = β₂R + (1 − β₂)GᵀG, divided by 1 − β₂ᵗ. What has more than two axes is a matrix with
    its last as columns; a vector is divided by the root of an EMA of g².

    Parameters
    ----------
    b2
        Decay β₂ of the EMAs, in [0, 1).
    eps
        Part of the mean eigenvalue that is added to each, before the root.

    Notes
    -----
    Gupta, Koren and Singer, arXiv:1802.09568, with averages in the place of sums as in arXiv:2002.09018.
    """

    def init(params: Any) -> ScaleByShampooState:
        left = jax.tree.map(lambda w: jnp.zeros_like(_left(w)), params)
        right = jax.tree.map(lambda w: jnp.zeros_like(_right(w)), params)
        return ScaleByShampooState(jnp.zeros([], jnp.int32), left, right)

    def update(
        updates: Any, state: ScaleByShampooState, params: Any = None
    ) -> tuple[Any, ScaleByShampooState]:
        del params
        count = optax.safe_increment(state.count)
        left, right = (
            jax.tree.map(lambda old, g, of=of: b2 * old + (1 - b2) * of(g), before, updates)
            for before, of in ((state.left, _left), (state.right, _right))
        )

        def scaled(g: Array, left: Array, right: Array) -> Array:
            debias = 1 / (1 - b2 ** count.astype(g.dtype))
            if g.ndim < 2:
                nu = debias * left
                return g / jnp.sqrt(nu + eps * jnp.mean(nu))
            roots = [power(ridged(debias * m, eps), -0.25) for m in (left, right)]
            return (roots[0] @ as_matrix(g) @ roots[1]).reshape(g.shape)

        return jax.tree.map(scaled, updates, left, right), ScaleByShampooState(count, left, right)

    return optax.GradientTransformation(init, update)


def shampoo(
    learning_rate: optax.ScalarOrSchedule, b2: float = 0.99, eps: float = 1e-6
) -> optax.GradientTransformation:
    """Shampoo: ΔW = −η L̂^{−1/4} G R̂^{−1/4} for each matrix of weights.

    Parameters
    ----------
    learning_rate
        η, a number or an optax schedule.
    b2, eps
        As in :func:`scale_by_shampoo`.
    """
    return optax.chain(scale_by_shampoo(b2, eps), optax.scale_by_learning_rate(learning_rate))


def as_matrix(g: Array) -> Float[Array, "rows cols"]:
    """What has more than two axes as a matrix with its last as columns."""
    return g.reshape(-1, g.shape[-1])


def _left(g: Array) -> Array:
    return g**2 if g.ndim < 2 else as_matrix(g) @ as_matrix(g).T


def _right(g: Array) -> Array:
    return jnp.zeros((), g.dtype) if g.ndim < 2 else as_matrix(g).T @ as_matrix(g)


def ridged(m: Float[Array, "n n"], eps: float) -> Float[Array, "n n"]:
    """A positive matrix with a part of its mean eigenvalue added to each."""
    return m + eps * jnp.trace(m) / len(m) * jnp.eye(len(m), dtype=m.dtype)
