"""Self-attention, feed-forward layers and fixed positions, shared by the vision and language transformers."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from numpy.typing import NDArray

from cflow_cli.models.activations import get_activation
from cflow_cli.models.base import Linear


class Attention(eqx.Module):
    """Multi-head self-attention, softmax(q kᵀ/√d_head) v, written out (fused kernels lack third derivatives).

    Parameters
    ----------
    width
        Size of each position's vector.
    heads, head_width
        Number of heads and size of each.
    key
        Seed of the initial weights.
    causal
        Whether positions see only themselves and those before.
    bias
        Whether the projections have biases.
    scale
        Factor on the initial weights.
    """

    query_key_value: Linear
    out: Linear
    heads: int = eqx.field(static=True)
    causal: bool = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        key: PRNGKeyArray,
        *,
        causal: bool,
        bias: bool,
        scale: float,
    ) -> None:
        in_key, out_key = jax.random.split(key)
        self.query_key_value = Linear(width, 3 * heads * head_width, in_key, bias=bias, scale=scale)
        self.out = Linear(heads * head_width, width, out_key, bias=bias, scale=scale)
        self.heads = heads
        self.causal = causal

    def __call__(self, x: Float[Array, "n t width"]) -> Float[Array, "n t width"]:
        """Attend within each sequence of a batch."""
        n, t, _ = x.shape
        q, k, v = jnp.moveaxis(self.query_key_value(x).reshape(n, t, 3, self.heads, -1), 2, 0)
        scores = jnp.einsum("nthd,nshd->nhts", q, k) / math.sqrt(q.shape[-1])
        if self.causal:
            # A finite number far below any score: exp gives exactly 0, and derivatives meet no infinity.
            scores = jnp.where(np.tri(t, dtype=bool), scores, -1e9)
        mixed = jnp.einsum("nhts,nshd->nthd", jax.nn.softmax(scores, axis=-1), v)
        return self.out(mixed.reshape(n, t, -1))


class FeedForward(eqx.Module):
    """Two linear layers with an activation between them, at every position."""

    first: Linear
    second: Linear

    def __init__(self, width: int, hidden: int, key: PRNGKeyArray, *, scale: float) -> None:
        first_key, second_key = jax.random.split(key)
        self.first = Linear(width, hidden, first_key, scale=scale)
        self.second = Linear(hidden, width, second_key, scale=scale)

    def __call__(self, x: Float[Array, "... width"], activation: str) -> Float[Array, "... width"]:
        """Apply at every position."""
        return self.second(get_activation(activation).function(self.first(x)))


def sinusoids(positions: NDArray, width: int) -> NDArray:
    """Sines and cosines of each position at frequencies from 1 to 1/10,000, shape ``(len, width)``."""
    frequencies = 10_000.0 ** (-np.arange(0, width, 2) / width)
    angles = positions[:, None] * frequencies
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(len(positions), -1)[:, :width]
