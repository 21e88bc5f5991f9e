"""Decoder-only transformer for next-token prediction."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cflow_cli.datasets.dataset import Dataset
from cflow_cli.errors import UserError
from cflow_cli.models.activations import get_activation
from cflow_cli.models.attention import Attention, FeedForward, sinusoids
from cflow_cli.models.base import ActivatedModel, Linear, numbers, positive
from cflow_cli.models.normalisation import LayerNorm
from cflow_cli.models.tokens import Embedding, vocabulary_of


class Transformer(ActivatedModel):
    """Embedding plus sinusoidal positions, blocks of causal attention and feed-forward layers, outputs.

    Parameters
    ----------
    data
        Tokens ``(T,)``; sizes the first and last layer.
    key
        Seed of the initial weights.
    width
        Size of each token's vector; a multiple of ``heads``.
    depth
        Number of blocks.
    heads
        Attention heads, of size ``width/heads`` each.
    hidden
        Hidden units of each feed-forward part; null for 4·width.
    norm
        Where the layer norms are: ``post`` (after each addition, as in the paper) or ``pre``.
    activation
        Name in ``cflow_cli.models.activations.ACTIVATIONS``.
    head_scale
        Factor on the initial output layer; the paper starts it at 0.
    output_scale
        Fixed factor on the outputs.
    init_scale
        Factor on all initial weights.

    Raises
    ------
    UserError
        If the data are not tokens, or an option is not allowed.
    """

    embedding: Embedding
    blocks: tuple[tuple[Attention, LayerNorm, FeedForward, LayerNorm], ...]
    final_norm: LayerNorm | None
    head: Linear
    norm: str = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    output_scale: float = eqx.field(static=True)

    def __init__(
        self,
        data: Dataset,
        key: PRNGKeyArray,
        width: int = 32,
        depth: int = 4,
        heads: int = 4,
        hidden: int | None = None,
        norm: str = "post",
        activation: str = "gelu",
        head_scale: float = 0.0,
        output_scale: float = 1.0,
        init_scale: float = 1.0,
    ) -> None:
        hidden = 4 * width if hidden is None else hidden
        positive(width=width, depth=depth, heads=heads, hidden=hidden)
        numbers(head_scale=head_scale, output_scale=output_scale, init_scale=init_scale)
        get_activation(activation)
        if width % heads:
            raise UserError(f"model.width must be a multiple of model.heads={heads}, got {width}")
        if norm not in ("post", "pre"):
            raise UserError(f"model.norm must be post or pre, got {norm!r}")
        vocabulary = vocabulary_of(data, "transformer")
        keys = iter(jax.random.split(key, 2 * depth + 2))
        # Glorot's deviation for the vocabulary × width matrix, as the paper's code uses.
        deviation = init_scale * math.sqrt(2 / (vocabulary + width))
        self.embedding = Embedding(vocabulary, width, next(keys), deviation)
        # √3 turns ±1/√fan_in into Glorot's ±√(6/(fan_in + fan_out)) for square matrices.
        scale = init_scale * math.sqrt(3)
        self.blocks = tuple(
            (
                Attention(width, heads, width // heads, next(keys), causal=True, bias=True, scale=scale),
                LayerNorm(width),
                FeedForward(width, hidden, next(keys), scale=scale),
                LayerNorm(width),
            )
            for _ in range(depth)
        )
        self.final_norm = LayerNorm(width) if norm == "pre" else None
        self.head = Linear(width, vocabulary, next(keys), scale=head_scale * init_scale)
        self.norm = norm
        self.activation = activation
        self.output_scale = output_scale

    def __call__(self, x: Int[Array, "n t"]) -> Float[Array, "n t vocabulary"]:
        """Outputs at every position of a batch of sequences."""
        h = self.embedding(x)
        width = h.shape[-1]
        h = h * math.sqrt(width) + jnp.asarray(sinusoids(np.arange(x.shape[1]), width), h.dtype)
        for attention, attention_norm, feed, feed_norm in self.blocks:
            if self.norm == "pre":
                h = h + attention(attention_norm(h))
                h = h + feed(feed_norm(h), self.activation)
            else:
                h = attention_norm(h + attention(h))
                h = feed_norm(h + feed(h, self.activation))
        if self.final_norm is not None:
            h = self.final_norm(h)
        return self.output_scale * self.head(h)
