"""A smoothed Muon: singular values of the momentum are mapped to σ/√(σ² + ε²), to one only where they are large."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from cflow_cli.optimizers.shampoo import as_matrix, power


def scale_by_smoothed_msign(eps: float = 0.1) -> optax.GradientTransformation:
    """Multiply each matrix G by (GGᵀ + ε²I)^{−1/2}; a vector counts as a matrix of one column.

    Parameters
    ----------
    eps
        ε, in units of the gradient. At 0 it is msign, all singular values one; far above all of them G/ε.

    Notes
    -----
    What Muon's iteration of Newton and Schulz comes near (Jordan et al., https://kellerjordan.github.io/posts/muon/),
    made smooth at σ = 0.
    """

    def scaled(g: Array) -> Array:
        matrix = g[:, None] if g.ndim == 1 else as_matrix(g)
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T  # the smaller of both products
        squares = wide @ wide.T + eps**2 * jnp.eye(len(wide), dtype=g.dtype)
        out = power(squares, -0.5) @ wide
        return (out if wide is matrix else out.T).reshape(g.shape)

    def init(params: Any) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        del params
        return jax.tree.map(scaled, updates), state

    return optax.GradientTransformation(init, update)


def muon_smoothed(
    learning_rate: optax.ScalarOrSchedule, beta: float = 0.0, eps: float = 0.1
) -> optax.GradientTransformation:
    """Smoothed Muon: ΔW = −η (MMᵀ + ε²I)^{−1/2} M, with M an EMA of the gradients.

    Parameters
    ----------
    learning_rate
        η, a number or an optax schedule.
    beta
        Decay of the EMA, in [0, 1); 0 for the gradient itself.
    eps
        As in :func:`scale_by_smoothed_msign`.
    """
    return optax.chain(
        optax.ema(beta, debias=False),
        scale_by_smoothed_msign(eps),
        optax.scale_by_learning_rate(learning_rate),
    )
