"""Normalisations. Each acts on one example alone, so the loss stays a mean over examples."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

EPSILON = 1e-5


def _whiten(x: Array, axes: tuple[int, ...]) -> Array:
    """Mean 0 and variance 1 over ``axes``."""
    centred = x - jnp.mean(x, axis=axes, keepdims=True)
    return centred * lax.rsqrt(jnp.mean(centred * centred, axis=axes, keepdims=True) + EPSILON)


class LayerNorm(eqx.Module):
    """(x − mean)/deviation over the last axis, times a scale, plus a shift."""

    scale: Float[Array, " width"]
    shift: Float[Array, " width"]

    def __init__(self, width: int) -> None:
        self.scale = jnp.ones(width, jnp.float32)
        self.shift = jnp.zeros(width, jnp.float32)

    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        """Normalise every vector along the last axis."""
        return _whiten(x, (-1,)) * self.scale + self.shift


class RMSNorm(eqx.Module):
    """x/√(mean x²) over the last axis, times a scale."""

    scale: Float[Array, " width"]

    def __init__(self, width: int) -> None:
        self.scale = jnp.ones(width, jnp.float32)

    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        """Normalise every vector along the last axis."""
        return x * lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + EPSILON) * self.scale


class GroupNorm(eqx.Module):
    """Mean 0 and variance 1 over pixels and groups of channels, then a scale and a shift per channel.

    Parameters
    ----------
    channels
        Channels of the images; a multiple of ``groups``.
    groups
        Number of groups.
    scale
        Initial value of all scales; 0 silences a residual branch at the start.
    """

    scale: Float[Array, " channels"]
    shift: Float[Array, " channels"]
    groups: int = eqx.field(static=True)

    def __init__(self, channels: int, groups: int, scale: float = 1.0) -> None:
        self.scale = jnp.full(channels, scale, jnp.float32)
        self.shift = jnp.zeros(channels, jnp.float32)
        self.groups = groups

    def __call__(self, x: Float[Array, "n h w channels"]) -> Float[Array, "n h w channels"]:
        """Normalise a batch of images."""
        n, h, w, channels = x.shape
        grouped = x.reshape(n, h * w, self.groups, channels // self.groups)
        return _whiten(grouped, (1, 3)).reshape(x.shape) * self.scale + self.shift
