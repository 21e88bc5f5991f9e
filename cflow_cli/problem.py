"""The training loss as a function of one flat weight vector, and its derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from cflow_cli.computing import platform, whole
from cflow_cli.errors import UserError
from cflow_cli.losses import MSE, Loss, as_loss
from cflow_cli.objectives import (
    Evaluation,
    FunctionObjective,
    LinearisedObjective,
    LossFunction,
    ModelObjective,
    Weights,
    layers_of,
)

Block = Float[Array, "block params"]


def each_row(function: Callable[[Weights], Weights], rows: Block, at_once: int | None = None) -> Block:
    """``function`` of every row: all at once, but on a CPU, where that was up to twice as slow, in turn.

    Parameters
    ----------
    function, rows
        What is taken of each, and a block (k, n).
    at_once
        Most rows at once, where not in turn; None for all.
    """
    if platform() == "cpu" or at_once == 1:
        return jax.lax.map(function, rows)
    count = rows.shape[0]
    if at_once is None or at_once >= count:
        return jax.vmap(function)(rows)
    passes = -(-count // at_once)
    return jax.lax.map(function, rows, batch_size=-(-count // passes))


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
    objective
        What L is made of.
    at_once
        Most directions that derivatives are taken along at once; None for all. On a CPU they are taken in turn.
    """

    w0: Weights
    objective: Any
    at_once: int | None = eqx.field(static=True, default=None)

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
        return cls(w0, FunctionObjective(loss_fn))._checked()

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
            A :class:`cflow_cli.losses.Loss`, or a plain function ``loss(outputs, target)`` of one example, see
            :func:`cflow_cli.losses.as_loss`; without ``data.microbatch`` anything that is called as
            ``loss(outputs, y, mask)``, gives a scalar, and has ``accuracy`` of the same signature.
        dtype
            float32 or float64; the model's own when None.

        Raises
        ------
        UserError
            If the loss of the initial model is not a finite scalar, or cannot be summed over slices.
        """
        loss = as_loss(loss)
        if data.microbatch is not None and not isinstance(loss, Loss):
            raise UserError(
                f"data.microbatch needs a loss that is a mean of one value per example; {type(loss).__name__} is "
                "no cflow_cli.losses.Loss: derive it from that class, or set data.microbatch=null"
            )
        params, skeleton = eqx.partition(model, eqx.is_inexact_array)
        if dtype is not None:
            params = jax.tree.map(lambda a: a.astype(dtype), params)
        w0, unravel = ravel_pytree(params)

        def array(value: Any) -> Any:
            if value is None:
                return None
            value = jnp.asarray(value)
            return value.astype(w0.dtype) if jnp.issubdtype(value.dtype, jnp.floating) else value

        objective = ModelObjective(
            x=array(data.x),
            y=array(data.y),
            mask=array(data.mask),
            x_test=array(data.x_test),
            y_test=array(data.y_test),
            mask_test=array(data.mask_test),
            criterion=loss,
            skeleton=skeleton,
            unravel=unravel,
            layers=layers_of(params),
            microbatch=data.microbatch,
            truth=array(data.truth),
        )
        return cls(w0, objective)._checked()

    def with_model(self, model: Any) -> Problem:
        """The same data and loss with another model, whose weights are w₀; no check is made, so it may be traced.

        Parameters
        ----------
        model
            As for :meth:`from_model`, of this problem's dtype.

        Raises
        ------
        UserError
            For a problem from a function.
        """
        self._model_objective("data")
        params, skeleton = eqx.partition(model, eqx.is_inexact_array)
        w0, unravel = ravel_pytree(params)
        objective = replace(self.objective, skeleton=skeleton, unravel=unravel, layers=layers_of(params))
        return replace(self, w0=w0, objective=objective)

    def sharded(self, devices: Sequence[Any]) -> Problem:
        """The same problem with its examples divided among devices, for sums that JAX then takes over all of them.

        Parameters
        ----------
        devices
            Of one kind, as from ``jax.devices()``.

        Raises
        ------
        UserError
            If the examples cannot be divided evenly, or there are none to divide.
        """
        objective = self.objective
        if not isinstance(objective, ModelObjective):
            raise UserError("only a problem from a model and data has examples to divide among devices")
        examples, slices = len(objective.x), objective.microbatch
        for number, key in ((examples, "data.n"), (slices, "data.microbatch")):
            if number is not None and number % len(devices):
                raise UserError(
                    f"{key}={number} is not a multiple of the {len(devices)} devices; "
                    f"try {key}={max(number // len(devices), 1) * len(devices)}, or another number of devices"
                )
        if slices is not None and examples % slices:
            raise UserError(
                f"on several devices data.n={examples} must be a multiple of data.microbatch={slices}"
            )
        mesh = jax.sharding.Mesh(np.asarray(devices), ("examples",))
        whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        divided = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("examples"))
        arrays, rest = eqx.partition(self, eqx.is_array)
        places = jax.tree.map(lambda _: whole, arrays)
        train = lambda p: [a for a in (p.objective.x, p.objective.y, p.objective.mask) if a is not None]  # noqa: E731
        places = eqx.tree_at(train, places, [divided] * len(train(arrays)))
        return eqx.combine(jax.device_put(arrays, places), rest)

    def on_batch(self, numbers: Int[Array, " batch"]) -> Problem:
        """The same loss on some of the training examples, of which it is the mean; it may be traced.

        Parameters
        ----------
        numbers
            Which examples, shape (b,).

        Raises
        ------
        UserError
            For a problem from a function, which has no examples.
        """
        own = self._model_objective("examples")
        x, y, mask = (None if a is None else a[numbers] for a in (own.x, own.y, own.mask))
        return replace(self, objective=replace(own, x=x, y=y, mask=mask, microbatch=None))

    def in_batches(self, at_once: int | None, examples: int | None) -> Problem:
        """The same loss, whose derivatives need less memory.

        Parameters
        ----------
        at_once
            Directions at once; None for all.
        examples
            Examples in a slice, one of which is in memory at a time; None for all. Only where :attr:`can_be_sliced`.
        """
        objective = (
            self.objective if examples == self.slice_size else replace(self.objective, microbatch=examples)
        )
        return replace(self, objective=objective, at_once=at_once)

    @property
    def slice_size(self) -> int | None:
        """Examples in a slice, which is ``data.microbatch``; None for all of them."""
        return getattr(self.objective, "microbatch", None)

    @property
    def can_be_sliced(self) -> bool:
        """Whether the loss is a mean over examples, of which its device may take any number at a time."""
        return isinstance(getattr(self.objective, "criterion", None), Loss) and self.num_devices == 1

    def linearised(self, anchor: Weights) -> Problem:
        """The same loss of the network linearised in its weights, f(a) + J(a)(w − a) with J = ∂f/∂w.

        It is convex wherever the loss is convex in the outputs, and its Hessian is the Gauss–Newton matrix
        J(a)ᵀ ∇²ℓ J(a) of the outputs that it has at w [Lee et al., arXiv:1902.06720, section 2.2].

        Parameters
        ----------
        anchor
            Weights a at which it is linearised, shape (n,).

        Raises
        ------
        UserError
            For a problem from a function, which has no outputs.
        """
        objective = self.objective
        if not isinstance(objective, ModelObjective):
            raise UserError(
                "only a problem from a model and data has a network to linearise; this one is a function of the "
                "weights, so take linear out of the processes"
            )
        own = {field.name: getattr(objective, field.name) for field in fields(ModelObjective)}
        return replace(self, objective=LinearisedObjective(**own, anchor=anchor))

    @property
    def num_devices(self) -> int:
        """Devices that share the examples."""
        return len(self.w0.devices())

    def _checked(self) -> Problem:
        value = eqx.filter_eval_shape(self.loss, self.w0)
        if value.shape != () or value.dtype != self.w0.dtype:
            raise UserError(
                f"the loss must be a scalar of the weights' dtype {self.w0.dtype}, got shape {value.shape} of "
                f"{value.dtype}; sum or average it, and keep constants in the weights' dtype"
            )
        if not bool(jnp.isfinite(eqx.filter_jit(self.loss)(self.w0))):
            raise UserError(
                "the loss is not finite at the initial weights; check the data and the initialisation"
            )
        return self

    @property
    def num_examples(self) -> int:
        """Training examples; 0 for a problem from a function."""
        return len(self.objective.x) if isinstance(self.objective, ModelObjective) else 0

    @property
    def layers(self) -> tuple[tuple[str, int], ...]:
        """Layers in the order of the flat vector, name and number of weights; one for a problem from a function."""
        if isinstance(self.objective, ModelObjective):
            return self.objective.layers
        return (("weights", self.num_parameters),)

    @property
    def truth(self) -> Array | None:
        """The matrix that the data are entries of, where they know it."""
        return self.objective.truth if isinstance(self.objective, ModelObjective) else None

    @property
    def places(self) -> Any:
        """The model with each weight's place in the flat vector in its stead; None for a problem from a function."""
        return self.objective.places(self.w0) if isinstance(self.objective, ModelObjective) else None

    @property
    def unravel(self) -> Callable[[Weights], Any] | None:
        """What makes layers and matrices of the flat vector; None for a problem from a function."""
        return self.objective.unravel if isinstance(self.objective, ModelObjective) else None

    def matrices(self, vector: Weights) -> list[Float[Array, "rows cols"]]:
        """The layers in a flat vector that are matrices; what has more than two axes has its last as columns."""
        leaves = jax.tree.leaves(self.unravel(vector)) if self.unravel is not None else []
        return [leaf.reshape(-1, leaf.shape[-1]) for leaf in leaves if leaf.ndim > 1]

    @property
    def num_parameters(self) -> int:
        """Length n of the weight vector."""
        return self.w0.shape[0]

    def loss(self, w: Weights) -> Float[Array, ""]:
        """L(w)."""
        # Recomputed where it is differentiated, so that no slice leaves anything behind.
        return self.objective.sum(lambda loss: jax.checkpoint(loss)(w) if self._sliced else loss(w))

    def model(self, w: Weights) -> Any:
        """The model with these weights; UserError for a problem from a function."""
        return self._model_objective("a model").model(w)

    def _model_objective(self, what: str) -> ModelObjective:
        if not isinstance(self.objective, ModelObjective):
            raise UserError(f"only a problem from a model and data has {what}, not one from a function")
        return self.objective

    def evaluate(self, w: Weights) -> Evaluation:
        """Accuracy and test figures at w."""
        return self.objective.evaluate(w)

    def outputs(self, w: Weights, count: int, split: str = "train") -> Float[Array, " outputs"]:
        """Outputs of the network for the first examples of a split, one example after the other.

        Parameters
        ----------
        w
            Weights, shape (n,).
        count
            Number of examples; all there are where there are fewer.
        split
            ``train`` or ``test``. Empty for a problem from a function and for a split that there is not.
        """
        return self.objective.outputs_of(w, count, split)

    def residuals(self, w: Weights) -> Float[Array, "n ... k"]:
        """f(w) − y of the training examples, classes as one-hot vectors; for a problem from a model and data.

        0 where a target does not count, NaN where targets have another form than outputs.
        """
        return self.objective.residuals(w)

    def all_outputs(self, w: Weights) -> Float[Array, " rows"]:
        """Outputs of the network for every training example, one after the other; none of a problem from a function."""
        return self.objective.all_outputs(w)

    @property
    def counted_outputs(self) -> np.ndarray:
        """Which of :meth:`all_outputs` the loss looks at: all but those of masked positions; int32 indices."""
        rows = eqx.filter_eval_shape(self.all_outputs, self.w0).shape[0]
        mask = getattr(self.objective, "mask", None)
        counted = np.ones(1, bool) if mask is None else np.asarray(whole(mask)).ravel()
        return np.flatnonzero(np.repeat(counted, rows // counted.size)).astype(np.int32)

    @property
    def num_terms(self) -> int:
        """Terms of the mean that the loss is: examples, or positions that are not masked; 0 without a network."""
        if isinstance(getattr(self.objective, "criterion", None), Loss):
            return int(self.objective.criterion.count(self.objective.y, self.objective.mask))
        return self.num_examples

    @property
    def is_least_squares(self) -> bool:
        """Whether L = ‖f − y‖²/(2n), f all outputs and n the number of terms."""
        return isinstance(getattr(self.objective, "criterion", None), MSE)

    def gradient(self, w: Weights) -> Weights:
        """∇L(w), shape (n,)."""
        return self.objective.sum(lambda loss: jax.grad(loss)(w))

    def linearize(self, w: Weights) -> Linearization:
        """L(w), ∇L(w) and V ↦ H V, sharing one forward pass among all directions.

        The returned ``hvp`` maps a block (k, n) of directions to their Hessian products (k, n).
        """
        if self._sliced:
            # What linearize keeps for all directions grows with the number of examples; make it again, by slices.
            loss, gradient = self.objective.sum(lambda loss: jax.value_and_grad(loss)(w))
            return Linearization(
                loss,
                gradient,
                lambda rows: self.objective.sum(lambda loss: self._linearized(loss, w).hvp(rows)),
            )
        return self.objective.sum(lambda loss: self._linearized(loss, w))

    def _linearized(self, loss: LossFunction, w: Weights) -> Linearization:
        (value, gradient), linear = jax.linearize(jax.value_and_grad(loss), w)
        return Linearization(
            value, gradient, lambda rows: each_row(lambda v: linear(v)[1], rows, self.at_once)
        )

    def hvp(self, w: Weights, v: Weights) -> Weights:
        """H(w) v, shape (n,)."""
        return self.objective.sum(lambda loss: jax.jvp(jax.grad(loss), (w,), (v,))[1])

    def third(self, w: Weights, u: Weights, v: Weights) -> Weights:
        """∇_w (uᵀ H(w) v), shape (n,); symmetric in u and v.

        Two forward derivatives of the gradient: measured cheaper than a gradient of two forward ones.
        """

        def of(loss: LossFunction) -> Weights:
            def along_u(x: Weights) -> Weights:
                return jax.jvp(jax.grad(loss), (x,), (u,))[1]

            return jax.jvp(along_u, (w,), (v,))[1]

        return self.objective.sum(of)

    @property
    def _sliced(self) -> bool:
        return isinstance(self.objective, ModelObjective) and self.objective.slices(len(self.objective.x)) > 1
