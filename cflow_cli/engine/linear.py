"""The optimizer on the network linearised at its start: what training does where no feature is learnt.

With the anchor a, the weights that the process begins with, and J = ∂f/∂w there,

    f_lin(w) = f(a) + J (w − a),    L_lin(w) = loss of f_lin(w),    w_{t+1} = w_t + U(s_t, ∇L_lin(w_t)),

one forward and one reverse derivative of the outputs at the anchor per step, and the same map U of the optimizer with a
state of its own. The Hessian of L_lin is the Gauss–Newton matrix Jᵀ∇²ℓJ: with squared error it never changes, and the
largest of its eigenvalues is the largest of the empirical tangent kernel JJᵀ/n. So nothing here sharpens, and nothing
comes to rest at the edge: gradient descent converges for η < 2/λ_max and diverges above.

Source: Lee et al., arXiv:1902.06720, section 2.2.
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


class LinearState(NamedTuple):
    """State of the linearised network.

    Parameters
    ----------
    weights
        w, shape (n,).
    optimizer
        Its optimizer's state.
    vectors
        Eigenvectors of D^½ H D^½ followed, shape (block, n).
    anchor
        Weights at which the network is linearised, shape (n,).
    """

    weights: Float[Array, " params"]
    optimizer: Any
    vectors: Float[Array, "block params"]
    anchor: Float[Array, " params"]


class LinearProcess(eqx.Module):
    """Steps the optimizer on the linearised network and records how far it is from the real one.

    Parameters
    ----------
    optimizer
        The update map.
    every
        Steps between two looks at the spectrum and at the outputs.
    branches
        Whether it begins where flows branch off instead of at step 0.
    eigs, measurements
        How eigenvalues are followed, what is measured.

    Notes
    -----
    ``every`` and ``branches`` are no part of the program, which serves all of their values.
    """

    optimizer: Any
    every: Int[Array, ""]
    branches: Bool[Array, ""]
    eigs: EigsOptions = eqx.field(static=True)
    measurements: tuple[Measurement, ...] = eqx.field(static=True, default=())
    stops_when_full = False

    def init(self, weights: Array, optimizer: Any, block: int, key: Array, switch: bool) -> LinearState:
        """Linearise where the optimizer is."""
        rows = random_rows(key, block, weights.shape[0], weights.dtype)
        return LinearState(weights, optimizer, rows, weights)

    def rows(self, state: LinearState) -> Float[Array, "block params"]:
        """Followed eigenvectors."""
        return state.vectors

    def resize(self, state: LinearState, block: int, key: Array) -> LinearState:
        """Cut or extend the block."""
        return state._replace(vectors=resized(state.vectors, block, key))

    def retaining(self, state: LinearState, tried: LinearState) -> LinearState:
        """The old point, seen with the new eigenvectors."""
        return state._replace(vectors=tried.vectors)

    def follows_all(self, state: LinearState) -> Bool[Array, ""]:
        """Only the largest: no direction is held at the edge."""
        return jnp.asarray(False)

    def strained(self, state: LinearState) -> Bool[Array, ""]:
        """Its steps are the optimizer's."""
        return jnp.asarray(False)

    def weights(self, state: LinearState) -> Float[Array, " params"]:
        """Its own."""
        return state.weights

    def step(
        self, problem: Problem, context: Context, state: LinearState, ref: Reference
    ) -> tuple[LinearState, Record, Point]:
        """One step of the optimizer; the record describes its start."""
        network, w = problem.linearised(state.anchor), state.weights
        linear = network.linearize(w)
        after, delta = self.optimizer(state.optimizer, linear.gradient, w)
        d = own_step_size(self.optimizer, state.optimizer, after, linear.gradient, w)
        age = ref.step - jnp.where(self.branches, context.branch_step, 0)
        due = age % self.every == 0
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
        point = Point(
            problem=network,
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
            smooth_drift=lambda: delta,
            optimizer_state=state.optimizer,
            is_optimizer=False,
            oscillates=False,
        )
        record = common_record(point) | {
            "distance_to_discrete": jnp.linalg.norm(ref.weights - w),
            "function_distance": _function_distance(
                due | (ref.step == context.last_step), problem, network, ref.weights, state
            ),
            "eigen_residual": seen.residual,
            "hvps": seen.hvps,
            "status": status.astype(jnp.int32),
        }
        return LinearState(w + delta, after, seen.vectors, state.anchor), record, point


def _function_distance(
    due: Bool[Array, ""], problem: Problem, network: Problem, real: Array, state: LinearState
) -> Float[Array, ""]:
    """‖f(w_real) − f_lin(w)‖ / ‖f(a) − y‖ over all training outputs, NaN where it is not due."""

    def measure(_: None) -> Array:
        apart = problem.residuals(real) - network.residuals(state.weights)
        scale = jnp.linalg.norm(problem.residuals(state.anchor).ravel())
        return (jnp.linalg.norm(apart.ravel()) / scale).astype(real.dtype)

    return jax.lax.cond(due, measure, lambda _: jnp.full((), jnp.nan, real.dtype), None)
