"""SOAP: Adam in the eigenbases of Shampoo's preconditioner, which optax does not have."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from cflow_cli.optimizers.shampoo import as_matrix, ridged


class Layer(NamedTuple):
    """What is kept of a layer's gradients G; of a vector the first two, and None.

    Parameters
    ----------
    mu
        EMA of G.
    nu
        EMA of the squares of G in the bases, Q_LᵀGQ_R.
    left, right
        EMAs of GGᵀ and GᵀG.
    left_basis, right_basis
        Q_L and Q_R, their eigenvectors in columns, largest eigenvalue first.
    """

    mu: Array
    nu: Array
    left: Any
    right: Any
    left_basis: Any
    right_basis: Any


class ScaleBySoapState(NamedTuple):
    """Number of steps taken, and a :class:`Layer` for each."""

    count: Int[Array, ""]  # type: ignore[assignment]  # optax's name for it, over tuple.count
    layers: Any


def scale_by_soap(
    b1: float = 0.95,
    b2: float = 0.95,
    shampoo_beta: float = 0.95,
    eps: float = 1e-8,
    precondition_every: int = 10,
) -> optax.GradientTransformation:
    """Adam's step in the eigenbases of L and R, turned back: N = Q_L (M̂'/√(V̂ + ε)) Q_Rᵀ, with M' = Q_LᵀMQ_R.

    M and V are averages of G and of (Q_LᵀGQ_R)², and L and R of GGᵀ and GᵀG. After the step the bases take one step of
    orthogonal iteration, Q_L' from the QR decomposition of LQ_L. The first gradient makes the bases, and no step. What
    has more than two axes is a matrix with its last as columns; a vector has Adam's step.

    Parameters
    ----------
    b1, b2
        Decays β₁, β₂ of M and V, in [0, 1); V and M are divided by 1 − βᵗ.
    shampoo_beta
        Decay of L and R.
    eps
        ε, in units of the gradient squared.
    precondition_every
        Steps from one turn of the bases to the next.

    Notes
    -----
    Vyas et al., arXiv:2409.11321, Algorithms 3 and 4; the first step as in their code. That also sorts the columns by
    diag(QᵀLQ), which orthogonal iteration does by itself, and smoothly.
    """

    def init(params: Any) -> ScaleBySoapState:
        return ScaleBySoapState(jnp.zeros([], jnp.int32), jax.tree.map(_empty, params))

    def update(updates: Any, state: ScaleBySoapState, params: Any = None) -> tuple[Any, ScaleBySoapState]:
        del params
        first, turns = state.count == 0, state.count % precondition_every == 0
        age = jnp.maximum(state.count, 1)

        def averaged(g: Array, layer: Layer) -> Layer:
            mu = jnp.where(first, 0, b1 * layer.mu + (1 - b1) * g)
            nu = jnp.where(first, 0, b2 * layer.nu + (1 - b2) * _into(layer, g) ** 2)
            return layer._replace(mu=mu, nu=nu)

        def step(g: Array, layer: Layer) -> Array:
            mu, nu = (m / (1 - b ** age.astype(g.dtype)) for m, b in ((layer.mu, b1), (layer.nu, b2)))
            return _out_of(layer, _into(layer, mu) / jnp.sqrt(nu + eps)).reshape(g.shape)

        def turned(g: Array, layer: Layer) -> Layer:
            if layer.left is None:
                return layer
            matrix = as_matrix(g)
            left = shampoo_beta * layer.left + (1 - shampoo_beta) * (matrix @ matrix.T)
            right = shampoo_beta * layer.right + (1 - shampoo_beta) * (matrix.T @ matrix)
            bases = [
                jax.lax.cond(turns, _turned, lambda m, q, first: q, *jax.lax.stop_gradient((m, q)), first)
                for m, q in ((left, layer.left_basis), (right, layer.right_basis))
            ]
            return layer._replace(left=left, right=right, left_basis=bases[0], right_basis=bases[1])

        layers = jax.tree.map(averaged, updates, state.layers)
        delta = jax.tree.map(step, updates, layers)
        layers = jax.tree.map(turned, updates, layers)
        return delta, ScaleBySoapState(optax.safe_increment(state.count), layers)

    return optax.GradientTransformation(init, update)


def soap(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.95,
    b2: float = 0.95,
    shampoo_beta: float = 0.95,
    eps: float = 1e-8,
    precondition_every: int = 10,
) -> optax.GradientTransformation:
    """SOAP: Adam in the eigenbases of Shampoo's preconditioner.

    Parameters
    ----------
    learning_rate
        η, a number or an optax schedule.
    b1, b2, shampoo_beta, eps, precondition_every
        As in :func:`scale_by_soap`.
    """
    return optax.chain(
        scale_by_soap(b1, b2, shampoo_beta, eps, precondition_every),
        optax.scale_by_learning_rate(learning_rate),
    )


def _empty(w: Array) -> Layer:
    if w.ndim < 2:
        return Layer(jnp.zeros_like(w), jnp.zeros_like(w), None, None, None, None)
    rows, columns = as_matrix(w).shape
    left, right = jnp.zeros((rows, rows), w.dtype), jnp.zeros((columns, columns), w.dtype)
    return Layer(jnp.zeros_like(w), jnp.zeros((rows, columns), w.dtype), left, right, left, right)


def _into(layer: Layer, g: Array) -> Array:
    """A gradient in the bases."""
    return g if layer.left_basis is None else layer.left_basis.T @ as_matrix(g) @ layer.right_basis


def _out_of(layer: Layer, g: Array) -> Array:
    return g if layer.left_basis is None else layer.left_basis @ g @ layer.right_basis.T


def _turned(m: Float[Array, "n n"], basis: Float[Array, "n n"], first: Array) -> Float[Array, "n n"]:
    """One step of orthogonal iteration; at first the eigenvectors."""

    def iterated(m: Array) -> Array:
        # With no ridge the columns of eigenvalue zero would be rounding, another at each step.
        return jnp.linalg.qr(ridged(m, 10 * float(jnp.finfo(m.dtype).eps)) @ basis)[0]

    return jax.lax.cond(first, lambda m: jnp.linalg.eigh(m)[1][:, ::-1], iterated, m)
