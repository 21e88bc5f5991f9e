"""What is minimised, as a function of the flat vector of weights: a user's function, or a network's loss on data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cflow_cli.losses import wanted_outputs

Weights = Float[Array, " params"]


class Evaluation(NamedTuple):
    """Accuracy on the training split, loss and accuracy on the test split; NaN where there is none."""

    accuracy: Float[Array, ""]
    test_loss: Float[Array, ""]
    test_accuracy: Float[Array, ""]


LossFunction = Callable[[Weights], Array]


class FunctionObjective(eqx.Module):
    """A function of the weights, which has neither examples nor outputs."""

    function: LossFunction = eqx.field(static=True)

    def sum(self, of: Callable[[LossFunction], Any]) -> Any:
        """``of`` of the function."""
        return of(self.function)

    def evaluate(self, w: Weights) -> Evaluation:
        """Accuracy and test figures."""
        missing = jnp.full((), jnp.nan, w.dtype)
        return Evaluation(missing, missing, missing)

    def outputs_of(self, w: Weights, count: int, split: str) -> Array:
        """Outputs for the first examples of a split, one after the other."""
        return jnp.zeros(0, w.dtype)

    def all_outputs(self, w: Weights) -> Array:
        """Outputs for every training example, one after the other."""
        return jnp.zeros(0, w.dtype)


class ModelObjective(eqx.Module):
    """The loss of a network on a data set, in slices where the whole would not fit.

    Parameters
    ----------
    x, y, mask, x_test, y_test, mask_test
        As in :class:`cflow_cli.datasets.Dataset`.
    criterion
        The loss of outputs and targets.
    skeleton, unravel
        The model without its weights, and those of a flat vector in its form.
    layers
        As :attr:`cflow_cli.problem.Problem.layers` has them.
    microbatch
        Examples per slice; None for all at once.
    truth
        The matrix that the data are entries of, where they know it.
    """

    x: Any
    y: Any
    mask: Any
    x_test: Any
    y_test: Any
    mask_test: Any
    criterion: Any
    skeleton: Any = eqx.field(static=True)
    unravel: Callable[[Weights], Any] = eqx.field(static=True)
    layers: tuple[tuple[str, int], ...] = eqx.field(static=True)
    microbatch: int | None = eqx.field(static=True)
    truth: Any = None

    def model(self, w: Weights) -> Any:
        """The model with these weights."""
        return eqx.combine(self.unravel(w), self.skeleton)

    def apply(self, w: Weights, x: Array) -> Array:
        """Outputs, of which the loss is taken."""
        return self.network(w, x)

    def network(self, w: Weights, x: Array) -> Array:
        """The model's outputs."""
        return self.model(w)(x)

    def places(self, w: Weights) -> Any:
        """The model with each weight's place in the flat vector in its stead."""
        leaves, form = jax.tree.flatten(jax.eval_shape(self.unravel, w))
        ends = np.cumsum([leaf.size for leaf in leaves])
        numbers = [
            np.arange(end - leaf.size, end, dtype=np.int32).reshape(leaf.shape)
            for leaf, end in zip(leaves, ends)
        ]
        return eqx.combine(jax.tree.unflatten(form, numbers), self.skeleton)

    def slices(self, n: int) -> int:
        """Number of slices of n examples."""
        return 1 if self.microbatch is None else -(-n // self.microbatch)

    def cut(self, a: Array) -> Array:
        """Slices of the microbatch's size, stacked; the last is filled up from the first examples.

        Each takes examples from all over the batch: then every device has its part of each slice.
        """
        slices = self.slices(len(a))
        size = min(self.microbatch or len(a), len(a))
        a = a if slices * size == len(a) else jnp.concatenate([a, a[: slices * size - len(a)]])
        return jnp.swapaxes(a.reshape(size, slices, *a.shape[1:]), 0, 1)

    def sum(self, of: Callable[[LossFunction], Any]) -> Any:
        """Σ ``of``(loss of a slice), one slice in memory at a time; the losses of the slices add up to L."""
        n = len(self.x)
        slices = self.slices(n)
        if slices == 1:
            return of(lambda w: self.criterion(self.apply(w, self.x), self.y, self.mask))
        count = self.criterion.count(self.y, self.mask)
        x, y = self.cut(self.x), self.cut(self.y)
        mask = None if self.mask is None else self.cut(self.mask)
        if x.shape[1] * slices > n:
            numbers = jnp.arange(x.shape[1] * slices).reshape(x.shape[1], slices).T
            terms = y.ndim - 2 if jnp.issubdtype(y.dtype, jnp.integer) else 0
            real = (numbers < n).reshape(*numbers.shape, *(1,) * terms)
            mask = (
                jnp.broadcast_to(real, numbers.shape + y.shape[2:][:terms]) if mask is None else mask & real
            )

        def part(x: Array, y: Array, mask: Array | None) -> Any:
            return of(lambda w: self.criterion.total(self.apply(w, x), y, mask) / count)

        first = jax.tree.map(lambda a: a[0], (x, y, mask))
        zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(lambda: part(*first)))
        add = lambda total, now: (jax.tree.map(jnp.add, total, part(*now)), None)  # noqa: E731
        return jax.lax.scan(add, zero, (x, y, mask))[0]

    def outputs(self, w: Weights, x: Array) -> Array:
        """Outputs for inputs, by slices."""
        if self.slices(len(x)) == 1:
            return self.apply(w, x)
        outputs = jnp.swapaxes(jax.lax.map(lambda part: self.apply(w, part), self.cut(x)), 0, 1)
        return outputs.reshape(-1, *outputs.shape[2:])[: len(x)]

    def outputs_of(self, w: Weights, count: int, split: str) -> Array:
        """Outputs for the first examples of a split, one after the other."""
        x = self.x if split == "train" else self.x_test
        if x is None or not count:
            return jnp.zeros(0, w.dtype)
        return self.apply(w, x[:count]).astype(w.dtype).ravel()

    def residuals(self, w: Weights) -> Array:
        """What f − y is, in the form of the outputs; NaN where targets have another."""
        outputs = self.outputs(w, self.x)
        if not jnp.issubdtype(self.y.dtype, jnp.integer) and self.y.size != outputs.size:
            return jnp.full_like(outputs, jnp.nan)
        rest = outputs - wanted_outputs(outputs, self.y)
        return rest if self.mask is None else jnp.where(self.mask[..., None], rest, 0)

    def all_outputs(self, w: Weights) -> Array:
        """Outputs for every training example, one after the other."""
        return self.outputs(w, self.x).astype(w.dtype).ravel()

    def evaluate(self, w: Weights) -> Evaluation:
        """Accuracy and test figures."""
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


class LinearisedObjective(ModelObjective):
    """The same of f(a) + J(a)(w − a), of first order in the weights around the anchor a."""

    anchor: Weights = eqx.field(kw_only=True)

    def apply(self, w: Weights, x: Array) -> Array:
        """Outputs, of which the loss is taken."""
        value, change = jax.jvp(lambda v: self.network(v, x), (self.anchor,), (w - self.anchor,))
        return value + change


def layers_of(params: Any) -> tuple[tuple[str, int], ...]:
    """Leaves of a model's parameters, those of one module (weight and bias) taken together."""
    sizes: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = jax.tree_util.keystr(path[:-1] or path, simple=True, separator=".")
        # Another module's weights in between start a layer anew: a layer is one piece of the flat vector.
        while name in sizes and name != next(reversed(sizes)):
            name += "'"
        sizes[name] = sizes.get(name, 0) + leaf.size
    return tuple(sizes.items())
