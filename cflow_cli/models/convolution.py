"""Convolutions and poolings of images (n, h, w, channels) whose derivatives are fast under ``vmap``."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


def patches(x: Float[Array, "n h w c"], size: int, stride: int = 1) -> Float[Array, "n h2 w2 p"]:
    """Zero-padded ``size × size`` neighbourhoods of every ``stride``-th pixel, p = size²·c."""
    before, after = (size - 1) // 2, size // 2
    _, h, w, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    shifted = [padded[:, i : i + h : stride, j : j + w : stride, :] for i in range(size) for j in range(size)]
    return jnp.concatenate(shifted, axis=-1)


class Conv(eqx.Module):
    """A "same" convolution without bias, as patches times a matrix.

    Written as a matrix product because derivatives are taken along many directions of the weights at once:
    ``vmap`` turns a convolution over its kernel into a grouped convolution, which is slow, but a product
    into one larger product. Initialised uniformly in ±scale/√fan_in unless ``deviation`` asks for a normal.
    """

    weight: Float[Array, "patch outputs"]
    size: int = eqx.field(static=True)
    stride: int = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        key: PRNGKeyArray,
        *,
        size: int = 3,
        stride: int = 1,
        scale: float = 1.0,
        deviation: float | None = None,
    ) -> None:
        shape = (size * size * inputs, outputs)
        if deviation is None:
            bound = scale / math.sqrt(shape[0])
            self.weight = jax.random.uniform(key, shape, jnp.float32, -bound, bound)
        else:
            self.weight = scale * deviation * jax.random.normal(key, shape, jnp.float32)
        self.size = size
        self.stride = stride

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 outputs"]:
        """Convolve a batch of images."""
        return patches(x, self.size, self.stride) @ self.weight


def average_pool(x: Float[Array, "n h w c"], window: int) -> Float[Array, "n h2 w2 c"]:
    """Means over ``window × window`` squares; a remainder at the right and bottom is left out."""
    n, h, w, c = x.shape
    h2, w2 = h // window, w // window
    x = x[:, : h2 * window, : w2 * window, :]
    return x.reshape(n, h2, window, w2, window, c).mean(axis=(2, 4))


def max_pool(x: Float[Array, "n h w c"], window: int) -> Float[Array, "n h2 w2 c"]:
    """Maxima over ``window × window`` squares; a remainder at the right and bottom is left out."""
    n, h, w, c = x.shape
    h2, w2 = h // window, w // window
    x = x[:, : h2 * window, : w2 * window, :]
    return x.reshape(n, h2, window, w2, window, c).max(axis=(2, 4))
