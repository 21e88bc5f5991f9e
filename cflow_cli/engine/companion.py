"""What steps the optimizer itself beside the real run, from the same start: with another network, or other examples.

It differs from the real run in the gradient that a step is taken with. A row is of the start of the step: loss,
gradient and S_eff of a problem there, with the D of the companion's own state.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

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
from cflow_cli.problem import Linearization, Problem
from cflow_cli.records import Status


class Stepped(NamedTuple):
    """A step of a companion: where it leads, its record and the point that it starts from.

    Parameters
    ----------
    weights, optimizer, vectors
        w and the optimizer's state after it, and the eigenvectors followed.
    record, point
        Of its start.
    """

    weights: Float[Array, " params"]
    optimizer: Any
    vectors: Float[Array, "block params"]
    record: Record
    point: Point


class Companion(eqx.Module):
    """Base of these processes; their states have ``weights``, ``optimizer`` and ``vectors``.

    Parameters
    ----------
    optimizer
        The update map.
    eigs, measurements
        How eigenvalues are followed, what is measured.
    every
        Steps between two looks at the spectrum; no part of the program, which serves all of its values.
    """

    optimizer: Any
    eigs: EigsOptions = eqx.field(static=True)
    every: Int[Array, ""]
    measurements: tuple[Measurement, ...] = eqx.field(static=True, default=(), kw_only=True)
    stops_when_full = False

    def rows(self, state: Any) -> Float[Array, "block params"]:
        """Followed eigenvectors."""
        rows: Array = state.vectors
        return rows

    def resize(self, state: Any, block: int, key: Array) -> Any:
        """Cut or extend the block."""
        return state._replace(vectors=resized(state.vectors, block, key))

    def retaining(self, state: Any, tried: Any) -> Any:
        """The old point, seen with the new eigenvectors."""
        return state._replace(vectors=tried.vectors)

    def follows_all(self, state: Any) -> Bool[Array, ""]:
        """Only the largest: no direction is held at the edge."""
        return jnp.asarray(False)

    def strained(self, state: Any) -> Bool[Array, ""]:
        """Its steps are the optimizer's."""
        return jnp.asarray(False)

    def weights(self, state: Any) -> Float[Array, " params"]:
        """Its own."""
        own: Array = state.weights
        return own

    def stepped(
        self,
        problem: Problem,
        linear: Linearization,
        gradient: Float[Array, " params"],
        context: Context,
        state: Any,
        ref: Reference,
        *,
        age: Int[Array, ""],
        due: Bool[Array, ""],
    ) -> Stepped:
        """One step of the optimizer.

        Parameters
        ----------
        problem, linear
            What a row is of, and its loss, gradient and Hessian where the step starts.
        gradient
            What the step is taken with, shape (n,).
        context, state, ref
            As for :meth:`cflow_cli.engine.processes.Process.step`.
        age, due
            Steps since it began, and whether the spectrum is looked at.
        """
        w = state.weights
        after, delta = self.optimizer(state.optimizer, gradient, w)
        d = own_step_size(self.optimizer, state.optimizer, after, gradient, w)
        seen = look(
            due,
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

        def smooth_drift() -> Array:
            own: Array = self.optimizer(state.optimizer, linear.gradient, w)[1]
            return own

        point = Point(
            problem=problem,
            optimizer=self.optimizer,
            eigs=self.eigs,
            step=ref.step,
            age=age,
            weights=w,
            linear=linear,
            step_size=step_size,
            step_sizes=jnp.broadcast_to(step_size, w.shape),
            values=seen.values,
            vectors=vectors,
            moments=moments_of(self.optimizer, state.optimizer),
            move=delta,
            drift=delta,
            smooth_drift=(lambda: delta) if gradient is linear.gradient else smooth_drift,
            optimizer_state=state.optimizer,
            is_optimizer=False,
            oscillates=False,
        )
        record = common_record(point) | {
            "distance_to_discrete": jnp.linalg.norm(ref.weights - w),
            "eigen_residual": seen.residual,
            "hvps": seen.hvps,
            "status": status.astype(jnp.int32),
        }
        return Stepped(w + delta, after, seen.vectors, record, point)
