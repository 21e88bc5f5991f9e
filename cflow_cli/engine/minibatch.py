"""The same optimizer on mini-batches: what the full-batch run beside it leaves out.

With batches B_t of b of the n training examples,

    g_t = ∇L_{B_t}(w_t),    w_{t+1} = w_t + U(s_t, g_t),

from the start of the full-batch run and with its learning rate. By ``epoch`` the batches of an epoch are the pieces of
one permutation of the examples, of which what is left over after the last whole batch is skipped; by ``chance`` each is
drawn anew, without replacement. A batch is a function of the seed and the step alone, so that a run goes on to the bit
wherever it was interrupted.

All that a row has is of the full batch: loss, gradient and S_eff at w_t, with the D of the optimizer's own state; only
``batch_loss`` is of B_t.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int

from cflow_cli.curvature.block import random_rows
from cflow_cli.engine.companion import Companion
from cflow_cli.engine.processes import Context, Record, Reference
from cflow_cli.measurements.base import Point
from cflow_cli.problem import Problem


def batch_of(key: Array, step: Int[Array, ""], examples: int, size: int, order: str) -> Int[Array, " batch"]:
    """Numbers of the examples in the batch of a step.

    Parameters
    ----------
    key
        Of everything random.
    step
        Which batch.
    examples, size
        n and b; b ≤ n.
    order
        ``epoch`` or ``chance``.
    """
    per_draw = examples // size if order == "epoch" else 1
    numbers = jax.random.permutation(jax.random.fold_in(key, step // per_draw), examples)
    return jax.lax.dynamic_slice_in_dim(numbers, step % per_draw * size, size)


class MinibatchState(NamedTuple):
    """Weights, the optimizer's state, and eigenvectors of the full batch's D^½ H D^½, shape (block, n)."""

    weights: Float[Array, " params"]
    optimizer: Any
    vectors: Float[Array, "block params"]


class MinibatchProcess(Companion):
    """Steps the optimizer on mini-batches and records the full batch at its iterates.

    Parameters
    ----------
    optimizer, eigs, every, measurements
        As every :class:`~cflow_cli.engine.companion.Companion` has them.
    key
        Of the batches; no part of the program, which serves all of them.
    size, order
        Examples in a batch, and how they are drawn; see :func:`batch_of`.
    """

    key: Array
    size: int = eqx.field(static=True)
    order: str = eqx.field(static=True)

    def init(self, weights: Array, optimizer: Any, block: int, key: Array, switch: bool) -> MinibatchState:
        """Where the optimizer begins."""
        return MinibatchState(weights, optimizer, random_rows(key, block, weights.shape[0], weights.dtype))

    def step(
        self, problem: Problem, context: Context, state: MinibatchState, ref: Reference
    ) -> tuple[MinibatchState, Record, Point]:
        """One step of the optimizer; the record describes its start."""
        w = state.weights
        batch = problem.on_batch(batch_of(self.key, ref.step, problem.num_examples, self.size, self.order))
        batch_loss, gradient = jax.value_and_grad(batch.loss)(w)
        linear, due = problem.linearize(w), ref.step % self.every == 0
        step = self.stepped(problem, linear, gradient, context, state, ref, age=ref.step, due=due)
        after = MinibatchState(step.weights, step.optimizer, step.vectors)
        return after, step.record | {"batch_loss": batch_loss}, step.point
