"""The training loss as a function of one flat weight vector, and its derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from .errors import UserError

Weights = Float[Array, " params"]
Block = Float[Array, "block params"]


class Evaluation(NamedTuple):
    """Accuracy on the training split, loss and accuracy on the test split; NaN where there is none."""

    accuracy: Float[Array, ""]
    test_loss: Float[Array, ""]
    test_accuracy: Float[Array, ""]


class _FunctionObjective(eqx.Module):
    function: Callable[[Weights], Array] = eqx.field(static=True)
    microbatch: int | None = eqx.field(static=True, default=None)

    def loss(self, w: Weights) -> Array:
        return self.function(w)

    def evaluate(self, w: Weights) -> Evaluation:
        missing = jnp.full((), jnp.nan, w.dtype)
        return Evaluation(missing, missing, missing)


class _ModelObjective(eqx.Module):
    x: Any
    y: Any
    mask: Any
    x_test: Any
    y_test: Any
    mask_test: Any
    criterion: Any
    skeleton: Any = eqx.field(static=True)
    unravel: Callable[[Weights], Any] = eqx.field(static=True)
    microbatch: int | None = eqx.field(static=True)

    def outputs(self, w: Weights, x: Array) -> Array:
        def apply(part: Array) -> Array:
            return eqx.combine(self.unravel(w), self.skeleton)(part)

        size, n = self.microbatch, len(x)
        if size is None or size >= n:
            return apply(x)
        # One slice after the other, and each forward pass again for each derivative: only the outputs of
        # all examples are in memory together. The last slice is filled up, and that dropped again.
        slices = -(-n // size)
        parts = jnp.concatenate([x, x[: slices * size - n]]).reshape(slices, size, *x.shape[1:])
        outputs = jax.lax.map(jax.checkpoint(apply), parts)
        return outputs.reshape(slices * size, *outputs.shape[2:])[:n]

    def loss(self, w: Weights) -> Array:
        return self.criterion(self.outputs(w, self.x), self.y, self.mask)

    def evaluate(self, w: Weights) -> Evaluation:
        missing = jnp.full((), jnp.nan, w.dtype)
        accuracy = self.criterion.accuracy(self.outputs(w, self.x), self.y, self.mask).astype(w.dtype)
        if self.x_test is None:
            return Evaluation(accuracy, missing, missing)
        out = self.outputs(w, self.x_test)
        return Evaluation(
            accuracy,
            self.criterion(out, self.y_test, self.mask_test).astype(w.dtype),
            self.criterion.accuracy(out, self.y_test, self.mask_test).astype(w.dtype),
        )


class Linearization(NamedTuple):
    """Loss and gradient at a point, and the Hessian there as a function of a block of directions."""

    loss: Float[Array, ""]
    gradient: Weights
    hvp: Callable[[Block], Block]


class Problem(eqx.Module):
    """Full-batch training loss L(w) on a flat weight vector, with its derivatives up to the third.

    Build one with :meth:`from_function` or :meth:`from_model`.

    Parameters
    ----------
    w0
        Initial weights, shape (n,), float32 or float64; its dtype is the precision of the whole run.
    """

    w0: Weights
    objective: Any

    @classmethod
    def from_function(cls, loss_fn: Callable[[Weights], Array], w0: Any) -> Problem:
        """Problem from any JAX-traceable function of a flat vector.

        Parameters
        ----------
        loss_fn
            L: (n,) -> scalar; at least three times differentiable where the flows are to hold.
        w0
            Initial weights, shape (n,).

        Raises
        ------
        UserError
            If ``w0`` is not a finite floating vector or L(w0) is not a finite scalar of its dtype.

        Examples
        --------
        >>> import jax.numpy as jnp
        >>> from cflow_cli import Problem
        >>> Problem.from_function(lambda w: 0.5 * jnp.sum(w**2), jnp.ones(3)).num_parameters
        3
        """
        w0 = jnp.asarray(w0)
        if w0.ndim != 1 or not jnp.issubdtype(w0.dtype, jnp.floating):
            raise UserError(
                f"w0 must be a flat floating-point vector, got shape {w0.shape} of {w0.dtype}; "
                "flatten a pytree with jax.flatten_util.ravel_pytree"
            )
        return cls(w0, _FunctionObjective(loss_fn))._checked()

    @classmethod
    def from_model(cls, model: eqx.Module, data: Any, loss: Any, dtype: Any = None) -> Problem:
        """Problem from an Equinox model on a batch, a data set and a loss.

        Parameters
        ----------
        model
            ``model(x) -> outputs`` on a batch; every floating array in it is trained.
        data
            A :class:`cflow_cli.datasets.Dataset`.
        loss
            ``loss(outputs, y, mask) -> scalar`` with ``loss.accuracy`` of the same signature.
        dtype
            float32 or float64; the model's own when None.

        Raises
        ------
        UserError
            If the loss of the initial model is not a finite scalar.
        """
        params, skeleton = eqx.partition(model, eqx.is_inexact_array)
        if dtype is not None:
            params = jax.tree.map(lambda a: a.astype(dtype), params)
        w0, unravel = ravel_pytree(params)

        def array(value: Any) -> Any:
            if value is None:
                return None
            value = jnp.asarray(value)
            return value.astype(w0.dtype) if jnp.issubdtype(value.dtype, jnp.floating) else value

        objective = _ModelObjective(
            x=array(data.x),
            y=array(data.y),
            mask=array(data.mask),
            x_test=array(data.x_test),
            y_test=array(data.y_test),
            mask_test=array(data.mask_test),
            criterion=loss,
            skeleton=skeleton,
            unravel=unravel,
            microbatch=data.microbatch,
        )
        return cls(w0, objective)._checked()

    def _checked(self) -> Problem:
        value = eqx.filter_eval_shape(self.objective.loss, self.w0)
        if value.shape != () or value.dtype != self.w0.dtype:
            raise UserError(
                f"the loss must be a scalar of the weights' dtype {self.w0.dtype}, got shape {value.shape} of "
                f"{value.dtype}; sum or average it, and keep constants in the weights' dtype"
            )
        if not bool(jnp.isfinite(eqx.filter_jit(self.objective.loss)(self.w0))):
            raise UserError(
                "the loss is not finite at the initial weights; check the data and the initialisation"
            )
        return self

    @property
    def num_parameters(self) -> int:
        """Length n of the weight vector."""
        return self.w0.shape[0]

    def loss(self, w: Weights) -> Float[Array, ""]:
        """L(w)."""
        return self.objective.loss(w)

    def evaluate(self, w: Weights) -> Evaluation:
        """Accuracy and test figures at w."""
        return self.objective.evaluate(w)

    def gradient(self, w: Weights) -> Weights:
        """∇L(w), shape (n,)."""
        return jax.grad(self.objective.loss)(w)

    def linearize(self, w: Weights) -> Linearization:
        """L(w), ∇L(w) and V ↦ H V, sharing one forward pass among all directions.

        The returned ``hvp`` maps a block (k, n) of directions to their Hessian products (k, n).
        """
        if self.objective.microbatch is not None:
            # What linearize keeps for all directions grows with the number of examples; recompute it instead.
            loss, gradient = jax.value_and_grad(self.objective.loss)(w)
            return Linearization(loss, gradient, jax.vmap(lambda v: self.hvp(w, v)))
        (loss, gradient), linear = jax.linearize(jax.value_and_grad(self.objective.loss), w)
        return Linearization(loss, gradient, jax.vmap(lambda v: linear(v)[1]))

    def hvp(self, w: Weights, v: Weights) -> Weights:
        """H(w) v, shape (n,)."""
        return jax.jvp(jax.grad(self.objective.loss), (w,), (v,))[1]

    def third(self, w: Weights, u: Weights, v: Weights) -> Weights:
        """∇_w (uᵀ H(w) v), shape (n,); symmetric in u and v.

        Two forward derivatives of the gradient: measured cheaper than a gradient of two forward ones.
        """

        def along_u(x: Weights) -> Weights:
            return jax.jvp(jax.grad(self.objective.loss), (x,), (u,))[1]

        return jax.jvp(along_u, (w,), (v,))[1]
