"""Losses and accuracies of a whole data set, with the paper's conventions.

Targets decide the form: int arrays are classes (or tokens), float ``(n,)`` are the ±1 of a binary task,
float ``(n, d)`` are regression targets.
"""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped


def _is_binary(y: Array) -> bool:
    return jnp.issubdtype(y.dtype, jnp.floating) and y.ndim == 1


def _is_classes(y: Array) -> bool:
    return jnp.issubdtype(y.dtype, jnp.integer)


class Loss(eqx.Module):
    """A mean of one value per example (per unmasked position for tokens).

    Called as ``loss(outputs, y, mask)``; ``values`` are the terms of the mean.
    """

    @abc.abstractmethod
    def values(self, outputs: Float[Array, "n ... k"], y: Shaped[Array, "n ..."]) -> Float[Array, "n ..."]:
        """Loss of each example or position, before the mean."""

    def total(self, outputs: Array, y: Array, mask: Bool[Array, "n ..."] | None = None) -> Float[Array, ""]:
        """Sum of ``values`` where ``mask`` is True; divide by ``count`` for the loss."""
        values = self.values(outputs, y)
        return jnp.sum(values) if mask is None else jnp.sum(jnp.where(mask, values, 0))

    @staticmethod
    def count(y: Array, mask: Bool[Array, "n ..."] | None = None) -> Array | int:
        """Number of terms in the mean."""
        if mask is not None:
            return jnp.sum(mask)
        return y.size if _is_classes(y) else len(y)

    def __call__(
        self, outputs: Array, y: Array, mask: Bool[Array, "n ..."] | None = None
    ) -> Float[Array, ""]:
        """Mean loss over examples and unmasked positions.

        Parameters
        ----------
        outputs
            What the model returns: ``(n, k)`` or ``(n, T, k)``.
        y
            Targets, see the module.
        mask
            ``(n, T)``, True where a target counts; None when all do.
        """
        return self.total(outputs, y, mask) / self.count(y, mask)

    @staticmethod
    def accuracy(outputs: Array, y: Array, mask: Bool[Array, "n ..."] | None = None) -> Float[Array, ""]:
        """Fraction of targets met: largest output for classes, sign for ±1; NaN for regression."""
        if _is_classes(y):
            right = jnp.argmax(outputs, axis=-1) == y
        elif _is_binary(y):
            right = (outputs[..., 0] > 0) == (y > 0)
        else:
            return jnp.full((), jnp.nan, outputs.dtype)
        kept = jnp.ones(right.shape, bool) if mask is None else mask
        return jnp.sum(right & kept).astype(outputs.dtype) / jnp.sum(kept).astype(outputs.dtype)


class MSE(Loss):
    """½ Σ_outputs (f − y)², classes as one-hot vectors, binary targets as ±1."""

    def values(self, outputs: Array, y: Array) -> Array:
        """Half the squared distance of each output vector from its target."""
        if _is_classes(y):
            wanted = jax.nn.one_hot(y, outputs.shape[-1], dtype=outputs.dtype)
        else:
            wanted = y.astype(outputs.dtype).reshape(outputs.shape)
        return 0.5 * jnp.sum((outputs - wanted) ** 2, axis=-1)


class CrossEntropy(Loss):
    """Negative log-likelihood: −log softmax(f)_y for classes, log(1 + e^(−yf)) for binary targets."""

    def values(self, outputs: Array, y: Array) -> Array:
        """Negative log-likelihood of each target."""
        if _is_binary(y):
            return jax.nn.softplus(-y.astype(outputs.dtype) * outputs[..., 0])
        # A one-hot product instead of indexing: its derivatives are products again, not scatters.
        wanted = jax.nn.one_hot(y, outputs.shape[-1], dtype=outputs.dtype)
        return jax.nn.logsumexp(outputs, axis=-1) - jnp.sum(wanted * outputs, axis=-1)


def mse() -> MSE:
    """Mean of ½ Σ_outputs (f − y)², over examples and unmasked positions."""
    return MSE()


def cross_entropy() -> CrossEntropy:
    """Mean negative log-likelihood; logistic loss when targets are ±1."""
    return CrossEntropy()
