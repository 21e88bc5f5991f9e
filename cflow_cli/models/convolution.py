"""Convolutions and poolings of images (n, h, w, channels)."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from cflow_cli.computing import platform


def patches(x: Float[Array, "n h w c"], size: int, stride: int = 1) -> Float[Array, "n h2 w2 p"]:
    """Zero-padded neighbourhoods of ``size × size`` pixels at every ``stride``-th one, p = size²·c."""
    before, after = (size - 1) // 2, size // 2
    _, h, w, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    # Columns, then rows: XLA computes what it concatenates once per operand, so they should be few.
    columns = jnp.concatenate([padded[:, :, j : j + w : stride, :] for j in range(size)], axis=-1)
    return jnp.concatenate([columns[:, i : i + h : stride] for i in range(size)], axis=-1)


def convolve(
    x: Float[Array, "n h w c"], weight: Float[Array, "patch outputs"], size: int, stride: int = 1
) -> Float[Array, "n h2 w2 outputs"]:
    """A "same" convolution of images, in the form that suits what it runs on.

    On a CPU :func:`patches` times a matrix: steps run inside compiled loops, where XLA has no fast convolution there
    (6 to 15 times slower). Elsewhere XLA's convolution: patches are ``size``² copies of every image, of which
    derivatives keep all that there are.

    Parameters
    ----------
    x
        Images.
    weight
        A column for each output, its rows in the order of a patch: row of the window, column, channel.
    size, stride
        Pixels along a side of the window, and between two windows.
    """
    if platform() == "cpu":
        return patches(x, size, stride) @ weight
    around = ((size - 1) // 2, size // 2)
    return jax.lax.conv_general_dilated(
        x,
        weight.reshape(size, size, x.shape[-1], weight.shape[-1]),
        window_strides=(stride, stride),
        padding=(around, around),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


class Conv(eqx.Module):
    """A "same" convolution without bias.

    Initialised uniformly in ±scale/√fan_in unless ``deviation`` asks for a normal.
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
        return convolve(x, self.weight, self.size, self.stride)


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
