"""Vision transformer."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from cflow_cli.datasets.dataset import Dataset
from cflow_cli.errors import UserError
from cflow_cli.models.activations import get_activation
from cflow_cli.models.attention import Attention, FeedForward, sinusoids
from cflow_cli.models.base import ActivatedModel, Linear, numbers, positive
from cflow_cli.models.cnn import image_shape
from cflow_cli.models.normalisation import LayerNorm


class ViT(ActivatedModel):
    """Patches as tokens, fixed 2-D sinusoidal positions, pre-norm blocks, mean over tokens, outputs.

    The simple ViT of Beyer et al. (arXiv 2205.01580), with the paper's sizes as defaults.

    Parameters
    ----------
    data
        Images ``(h, w, channels)``; sizes the first and last layer.
    key
        Seed of the initial weights.
    patch
        Side of a patch in pixels; must divide the image.
    width
        Size of each token's vector; a multiple of 4.
    depth
        Number of blocks.
    heads, head_width
        Attention heads and the size of each.
    hidden
        Hidden units of each block's feed-forward part.
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
        If the data are not images that the patch divides, or an option is not allowed.
    """

    patch_norm: LayerNorm
    embed: Linear
    embed_norm: LayerNorm
    blocks: tuple[tuple[LayerNorm, Attention, LayerNorm, FeedForward], ...]
    final_norm: LayerNorm
    head: Linear
    patch: int = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    output_scale: float = eqx.field(static=True)

    def __init__(
        self,
        data: Dataset,
        key: PRNGKeyArray,
        patch: int = 4,
        width: int = 64,
        depth: int = 4,
        heads: int = 8,
        head_width: int = 64,
        hidden: int = 256,
        activation: str = "gelu",
        head_scale: float = 0.0,
        output_scale: float = 1.0,
        init_scale: float = 1.0,
    ) -> None:
        positive(patch=patch, width=width, depth=depth, heads=heads, head_width=head_width, hidden=hidden)
        numbers(head_scale=head_scale, output_scale=output_scale, init_scale=init_scale)
        get_activation(activation)
        height, breadth, colours = image_shape(data, "vit")
        if height % patch or breadth % patch:
            raise UserError(f"model.patch must divide the image size {height}x{breadth}, got {patch}")
        if width % 4:
            raise UserError(f"model.width must be a multiple of 4 for 2-D positions, got {width}")
        keys = iter(jax.random.split(key, 2 * depth + 2))
        self.patch_norm = LayerNorm(patch * patch * colours)
        self.embed = Linear(patch * patch * colours, width, next(keys), scale=init_scale)
        self.embed_norm = LayerNorm(width)
        self.blocks = tuple(
            (
                LayerNorm(width),
                Attention(width, heads, head_width, next(keys), causal=False, bias=False, scale=init_scale),
                LayerNorm(width),
                FeedForward(width, hidden, next(keys), scale=init_scale),
            )
            for _ in range(depth)
        )
        self.final_norm = LayerNorm(width)
        self.head = Linear(width, data.num_outputs, next(keys), scale=head_scale * init_scale)
        self.patch = patch
        self.activation = activation
        self.output_scale = output_scale

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n outputs"]:
        """Outputs of a batch of images."""
        n, height, breadth, colours = x.shape
        rows, columns, p = height // self.patch, breadth // self.patch, self.patch
        tokens = x.reshape(n, rows, p, columns, p, colours).transpose(0, 1, 3, 2, 4, 5)
        h = self.embed_norm(self.embed(self.patch_norm(tokens.reshape(n, rows * columns, -1))))
        half = h.shape[-1] // 2
        across = np.tile(sinusoids(np.arange(columns), half), (rows, 1))
        down = np.repeat(sinusoids(np.arange(rows), half), columns, axis=0)
        h = h + jnp.asarray(np.concatenate([across, down], axis=-1), h.dtype)
        for attention_norm, attention, feed_norm, feed in self.blocks:
            h = h + attention(attention_norm(h))
            h = h + feed(feed_norm(h), self.activation)
        return self.output_scale * self.head(jnp.mean(self.final_norm(h), axis=1))
