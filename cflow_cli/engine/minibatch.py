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
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cflow_cli.curvature.block import random_rows
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.engine.discrete import moments_of
from cflow_cli.engine.processes import (
    NEW_BLOCK_ITERATIONS,
    Context,
    Record,
    Reference,
    common_record,
    diagonal_and_vectors,
    exploded,
    own_step_size,
)
from cflow_cli.engine.spectra import follower, look, probed, resized
from cflow_cli.measurements.base import Measurement, Point
from cflow_cli.problem import Problem
from cflow_cli.records import Status


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


class MinibatchProcess(eqx.Module):
    """Steps the optimizer on mini-batches and records the full batch at its iterates.

    Parameters
    ----------
    optimizer
        The update map.
    key, every
        Of the batches; steps between two looks at the spectrum. No part of the program, which serves all of them.
    size, order
        Examples in a batch, and how they are drawn; see :func:`batch_of`.
    eigs, measurements
        How eigenvalues are followed, what is measured.
    """

    optimizer: Any
    key: Array
    every: Int[Array, ""]
    size: int = eqx.field(static=True)
    order: str = eqx.field(static=True)
    eigs: EigsOptions = eqx.field(static=True)
    measurements: tuple[Measurement, ...] = eqx.field(static=True, default=())
    stops_when_full = False

    def init(self, weights: Array, optimizer: Any, block: int, key: Array, switch: bool) -> MinibatchState:
        """Where the optimizer begins."""
        return MinibatchState(weights, optimizer, random_rows(key, block, weights.shape[0], weights.dtype))

    def rows(self, state: MinibatchState) -> Float[Array, "block params"]:
        """Followed eigenvectors."""
        return state.vectors

    def resize(self, state: MinibatchState, block: int, key: Array) -> MinibatchState:
        """Cut or extend the block."""
        return state._replace(vectors=resized(state.vectors, block, key))

    def retaining(self, state: MinibatchState, tried: MinibatchState) -> MinibatchState:
        """The old point, seen with the new eigenvectors."""
        return state._replace(vectors=tried.vectors)

    def follows_all(self, state: MinibatchState) -> Bool[Array, ""]:
        """Only the largest: no direction is held at the edge."""
        return jnp.asarray(False)

    def strained(self, state: MinibatchState) -> Bool[Array, ""]:
        """Its steps are the optimizer's."""
        return jnp.asarray(False)

    def weights(self, state: MinibatchState) -> Float[Array, " params"]:
        """Its own."""
        return state.weights

    def step(
        self, problem: Problem, context: Context, state: MinibatchState, ref: Reference
    ) -> tuple[MinibatchState, Record, Point]:
        """One step of the optimizer; the record describes its start."""
        w = state.weights
        batch = problem.on_batch(batch_of(self.key, ref.step, problem.num_examples, self.size, self.order))
        batch_loss, gradient = jax.value_and_grad(batch.loss)(w)
        linear = problem.linearize(w)
        after, delta = self.optimizer(state.optimizer, gradient, w)
        d = own_step_size(self.optimizer, state.optimizer, after, gradient, w)
        seen = look(
            ref.step % self.every == 0,
            follower(self.optimizer, linear.hvp, d),
            state.vectors,
            lambda rows: probed(rows, context.probe, ref.step),
            self.eigs,
            jnp.inf,
            NEW_BLOCK_ITERATIONS,
        )
        status = jnp.where(seen.converged, Status.OK, Status.EIGENPAIRS_NOT_CONVERGED)
        status = jnp.where(exploded(linear.loss, context), Status.DIVERGED, status)
        step_size, vectors = diagonal_and_vectors(self.optimizer, d, seen.vectors)
        point = Point(
            problem=problem,
            optimizer=self.optimizer,
            eigs=self.eigs,
            step=ref.step,
            age=ref.step,
            weights=w,
            linear=linear,
            step_size=step_size,
            step_sizes=jnp.broadcast_to(step_size, w.shape),
            values=seen.values,
            vectors=vectors,
            moments=moments_of(self.optimizer, state.optimizer),
            move=delta,
            drift=delta,
            smooth_drift=lambda: self.optimizer(state.optimizer, linear.gradient, w)[1],
            optimizer_state=state.optimizer,
            is_optimizer=False,
            oscillates=False,
        )
        record = common_record(point) | {
            "distance_to_discrete": jnp.linalg.norm(ref.weights - w),
            "batch_loss": batch_loss,
            "eigen_residual": seen.residual,
            "hvps": seen.hvps,
            "status": status.astype(jnp.int32),
        }
        return MinibatchState(w + delta, after, seen.vectors), record, point
