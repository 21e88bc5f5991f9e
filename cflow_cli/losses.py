"""Losses and accuracies of a whole data set, with the paper's conventions.

Targets decide the form: int arrays are classes (or tokens), float ``(n,)`` are the ±1 of a binary task,
float ``(n, d)`` are regression targets.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from cflow_cli.errors import UserError


def _is_binary(y: Array) -> bool:
    return jnp.issubdtype(y.dtype, jnp.floating) and y.ndim == 1


def _is_classes(y: Array) -> bool:
    return jnp.issubdtype(y.dtype, jnp.integer)


def wanted_outputs(outputs: Float[Array, "n ... k"], y: Shaped[Array, "n ..."]) -> Float[Array, "n ... k"]:
    """Targets in the form of the outputs: classes as one-hot vectors, ±1 and numbers as they are."""
    if _is_classes(y):
        return jax.nn.one_hot(y, outputs.shape[-1], dtype=outputs.dtype)
    return y.astype(outputs.dtype).reshape(outputs.shape)


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
        return 0.5 * jnp.sum((outputs - wanted_outputs(outputs, y)) ** 2, axis=-1)


class CrossEntropy(Loss):
    """Negative log-likelihood: −log softmax(f)_y for classes, log(1 + e^(−yf)) for binary targets."""

    def values(self, outputs: Array, y: Array) -> Array:
        """Negative log-likelihood of each target."""
        if _is_binary(y):
            return jax.nn.softplus(-y.astype(outputs.dtype) * outputs[..., 0])
        # A one-hot product instead of indexing: its derivatives are products again, not scatters.
        wanted = jax.nn.one_hot(y, outputs.shape[-1], dtype=outputs.dtype)
        return jax.nn.logsumexp(outputs, axis=-1) - jnp.sum(wanted * outputs, axis=-1)


class PerExample(Loss):
    """The mean of a plain function of one example, ``function(outputs, target)``; see :func:`as_loss`.

    Parameters
    ----------
    function
        Outputs (k,) and target of an example, or of a position for tokens: a class (), ±1 (), or numbers (d,); to a
        number.
    options
        Further arguments by name.
    """

    function: Callable[..., Array] = eqx.field(static=True)
    options: tuple[tuple[str, Any], ...] = eqx.field(static=True, default=())

    def values(self, outputs: Array, y: Array) -> Array:
        """The function of each example or position."""
        each, name = partial(self.function, **dict(self.options)), getattr(self.function, "__name__", "it")
        positions = outputs.ndim - 1
        for _ in range(positions):
            each = jax.vmap(each)
        targets = y.astype(outputs.dtype) if jnp.issubdtype(y.dtype, jnp.floating) else y
        try:
            values = jnp.asarray(each(outputs, targets))
        except (TypeError, ValueError, IndexError) as error:
            raise UserError(
                f"the loss {name} does not take the outputs {outputs.shape[positions:]} and the target "
                f"{y.shape[positions:]} of one example: {str(error).splitlines()[0]}"
            ) from error
        if values.shape != outputs.shape[:-1]:
            raise UserError(
                f"the loss {name} must give one number for each example, got an array {values.shape[positions:]}; "
                "sum it"
            )
        return values.astype(outputs.dtype)


def as_loss(loss: Any) -> Any:
    """A loss as a :class:`Loss`, where it is a plain function of one example's outputs and target.

    Parameters
    ----------
    loss
        A :class:`Loss`, or something with its signature and an ``accuracy``, which is returned as it is; a function
        ``loss(outputs, target)``, or a :func:`functools.partial` of one with further arguments by name.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> absolute_fourth = as_loss(lambda outputs, target: jnp.sum((outputs - target) ** 4))
    >>> float(absolute_fourth(jnp.array([[1.0], [2.0]]), jnp.array([[0.0], [0.0]])))
    8.5
    """
    if isinstance(loss, Loss) or hasattr(loss, "accuracy"):
        return loss
    if isinstance(loss, partial) and not loss.args:
        # Not the partial itself, which equals no other: equal losses share their compiled programs.
        return PerExample(loss.func, tuple(sorted(loss.keywords.items())))
    return PerExample(loss)


def mse() -> MSE:
    """Mean of ½ Σ_outputs (f − y)², over examples and unmasked positions."""
    return MSE()


def cross_entropy() -> CrossEntropy:
    """Mean negative log-likelihood; logistic loss when targets are ±1."""
    return CrossEntropy()
