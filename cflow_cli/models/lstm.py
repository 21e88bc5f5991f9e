"""Stacked LSTM for next-token prediction."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cflow_cli.datasets.dataset import Dataset
from cflow_cli.models.base import Linear, Model, numbers, positive
from cflow_cli.models.tokens import Embedding, vocabulary_of


class Cell(eqx.Module):
    """One LSTM layer over a whole sequence, from zero states.

    i, f, o = σ(·), g = tanh(·) of x_t W_x + h_{t−1} W_h + b;  c_t = f c_{t−1} + i g;  h_t = o tanh c_t.
    """

    inputs: Linear
    recurrent: Linear

    def __init__(self, inputs: int, hidden: int, key: PRNGKeyArray, scale: float) -> None:
        input_key, recurrent_key = jax.random.split(key)
        # PyTorch draws both matrices from ±1/√hidden.
        input_scale = scale * (inputs / hidden) ** 0.5
        self.inputs = Linear(inputs, 4 * hidden, input_key, scale=input_scale)
        self.recurrent = Linear(hidden, 4 * hidden, recurrent_key, bias=False, scale=scale)

    def __call__(self, x: Float[Array, "t n inputs"]) -> Float[Array, "t n hidden"]:
        """Hidden states at every time."""
        # The input product is taken for all times at once; only the recurrent one has to wait.
        driven = self.inputs(x)
        hidden = driven.shape[-1] // 4

        def step(carry: tuple[Array, Array], drive: Array) -> tuple[tuple[Array, Array], Array]:
            h, c = carry
            i, f, g, o = jnp.split(drive + self.recurrent(h), 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((x.shape[1], hidden), driven.dtype)
        return jax.lax.scan(step, (zero, zero), driven)[1]


class LSTM(Model):
    """Embedding, stacked LSTM layers, outputs at every position.

    Parameters
    ----------
    data
        Tokens ``(T,)``; sizes the first and last layer.
    key
        Seed of the initial weights.
    width
        Size of each token's vector.
    hidden
        Units of each layer.
    depth
        Number of layers.
    output_scale
        Fixed factor on the outputs.
    init_scale
        Factor on all initial weights.

    Raises
    ------
    UserError
        If the data are not tokens, or a size is not allowed.
    """

    embedding: Embedding
    cells: tuple[Cell, ...]
    head: Linear
    output_scale: float = eqx.field(static=True)

    def __init__(
        self,
        data: Dataset,
        key: PRNGKeyArray,
        width: int = 48,
        hidden: int = 48,
        depth: int = 2,
        output_scale: float = 1.0,
        init_scale: float = 1.0,
    ) -> None:
        positive(width=width, hidden=hidden, depth=depth)
        numbers(output_scale=output_scale, init_scale=init_scale)
        vocabulary = vocabulary_of(data, "lstm")
        keys = iter(jax.random.split(key, depth + 2))
        self.embedding = Embedding(vocabulary, width, next(keys), init_scale)
        self.cells = tuple(
            Cell(width if layer == 0 else hidden, hidden, next(keys), init_scale) for layer in range(depth)
        )
        self.head = Linear(hidden, vocabulary, next(keys), scale=init_scale)
        self.output_scale = output_scale

    def __call__(self, x: Int[Array, "n t"]) -> Float[Array, "n t vocabulary"]:
        """Outputs at every position of a batch of sequences."""
        h = jnp.swapaxes(self.embedding(x), 0, 1)
        for cell in self.cells:
            h = cell(h)
        return self.output_scale * self.head(jnp.swapaxes(h, 0, 1))
