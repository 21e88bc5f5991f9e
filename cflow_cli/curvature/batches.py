"""Curvature of the loss on mini-batches."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def key_of(seed: int) -> Array:
    """Of the batches that a measurement draws, which are not those that a process steps on."""
    return jax.random.fold_in(jax.random.PRNGKey(seed), 0xBA7C4)


def along_gradients(
    problem: Any, w: Float[Array, " params"], key: Array, step: Int[Array, ""], size: int, batches: int
) -> Float[Array, " batches"]:
    """g_BᵀH_B g_B / ‖g_B‖² of batches B drawn at a step, each without replacement.

    Parameters
    ----------
    problem
        A :class:`cflow_cli.problem.Problem`, with at least ``size`` examples.
    w
        Weights, shape (n,).
    key, step
        Which batches.
    size, batches
        Examples in a batch, and their number.
    """

    def curvature(number: Int[Array, ""]) -> Float[Array, ""]:
        own = jax.random.fold_in(jax.random.fold_in(key, step), number)
        batch = problem.on_batch(jax.random.permutation(own, problem.num_examples)[:size])
        gradient = batch.gradient(w)
        return gradient @ batch.hvp(w, gradient) / (gradient @ gradient)

    return jax.lax.map(curvature, jnp.arange(batches))
