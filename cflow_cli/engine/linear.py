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

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from cflow_cli.curvature.block import random_rows
from cflow_cli.engine.companion import Companion
from cflow_cli.engine.processes import Context, Record, Reference
from cflow_cli.measurements.base import Point
from cflow_cli.problem import Problem


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


class LinearProcess(Companion):
    """Steps the optimizer on the linearised network and records how far it is from the real one.

    Parameters
    ----------
    optimizer, eigs, every, measurements
        As every :class:`~cflow_cli.engine.companion.Companion` has them; outputs are looked at with the spectrum.
    branches
        Whether it begins where flows branch off instead of at step 0; no part of the program, which serves both.
    """

    branches: Bool[Array, ""]

    def init(self, weights: Array, optimizer: Any, block: int, key: Array, switch: bool) -> LinearState:
        """Linearise where the optimizer is."""
        rows = random_rows(key, block, weights.shape[0], weights.dtype)
        return LinearState(weights, optimizer, rows, weights)

    def step(
        self, problem: Problem, context: Context, state: LinearState, ref: Reference
    ) -> tuple[LinearState, Record, Point]:
        """One step of the optimizer; the record describes its start."""
        network = problem.linearised(state.anchor)
        linear = network.linearize(state.weights)
        age = ref.step - jnp.where(self.branches, context.branch_step, 0)
        due = age % self.every == 0
        step = self.stepped(network, linear, linear.gradient, context, state, ref, age=age, due=due)
        apart = _function_distance(
            due | (ref.step == context.last_step), problem, network, ref.weights, state
        )
        after = LinearState(step.weights, step.optimizer, step.vectors, state.anchor)
        return after, step.record | {"function_distance": apart}, step.point


def _function_distance(
    due: Bool[Array, ""], problem: Problem, network: Problem, real: Array, state: LinearState
) -> Float[Array, ""]:
    """‖f(w_real) − f_lin(w)‖ / ‖f(a) − y‖ over all training outputs, NaN where it is not due."""

    def measure(_: None) -> Array:
        apart = problem.residuals(real) - network.residuals(state.weights)
        scale = jnp.linalg.norm(problem.residuals(state.anchor).ravel())
        return (jnp.linalg.norm(apart.ravel()) / scale).astype(real.dtype)

    return jax.lax.cond(due, measure, lambda _: jnp.full((), jnp.nan, real.dtype), None)
