"""The stable flow: the optimizer's smooth limit, as if it never oscillated.

For gradient descent dw/dt = −η∇L, gradient flow; for RMSProp dw/dt = −η∇L/√ν with ν an EMA of ∇L². In general the
optimizer's own map with the gradient averaged over the step along dw/dt = −D∇L. Below the edge that average is the
gradient and a step of dt = 1 is one of the optimizer. Above it a single gradient would overshoot, and the average is
taken with a Runge–Kutta–Chebyshev method, stable up to S_eff ≈ 1.93 s² with s gradients.

Sources: Cohen et al., arXiv:2410.24206, sections 3–5 (stable flows); van der Houwen & Sommeijer, ZAMM 60 (1980), for
the Chebyshev recursion.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..curvature.block import track
from ..optimizers.update_map import UpdateMap
from ..problem import Problem
from .base import FlowState, FlowStep, status_of, with_counters

_DAMPING = 0.05
_MARGIN = 1.1


class StableStepper(eqx.Module):
    """The step of the stable flow over a time dt.

    Parameters
    ----------
    optimizer
        The update map.
    dt
        Part of an optimizer step; 1 takes whole steps.
    critical_above, tolerance
        As in :class:`cflow_cli.options.EigsOptions`; only the largest eigenvalue has to converge.
    """

    optimizer: UpdateMap
    dt: float = eqx.field(static=True)
    critical_above: float = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)
    tracks_all = False

    def __call__(
        self, problem: Problem, state: FlowState, counters: Any, iterations: Int[Array, ""]
    ) -> tuple[FlowState, FlowStep]:
        """Take one sub-step; see :class:`cflow_cli.flows.base.Stepper`."""
        w = state.weights
        linear = problem.linearize(w)
        d, _ = self.optimizer.linear_response(state.optimizer)
        root = jnp.sqrt(d)
        pairs = track(
            lambda rows: root * linear.hvp(root * rows),
            state.vectors,
            above=jnp.inf,
            tolerance=self.tolerance,
            max_iterations=iterations,
        )
        reach = pairs.values[0] * self.dt
        stages = jnp.ceil(jnp.sqrt(_MARGIN * jnp.maximum(reach, 0) / (2 - 4 / 3 * _DAMPING)))
        stages = jnp.where(reach > self.critical_above, jnp.clip(stages, 2, 100), 1).astype(jnp.int32)
        gradient = jax.lax.cond(
            stages > 1,
            lambda g: mean_gradient(problem, w, g, d, self.dt, stages),
            lambda g: g,
            linear.gradient,
        )
        before = with_counters(self.optimizer, state.optimizer, counters)
        after, delta = self.optimizer(before, gradient, w)
        after = self.optimizer.part_of_step(before, after, gradient, w, self.dt)
        found = FlowStep(
            linear, pairs, d, None, gradients=stages, third_derivatives=jnp.zeros((), jnp.int32),
            status=status_of(pairs, d),
        )
        return FlowState(w + self.dt * delta, after, pairs.vectors, state.x), found


def mean_gradient(
    problem: Problem,
    w: Float[Array, " params"],
    gradient: Float[Array, " params"],
    d: Float[Array, " params_or_1"],
    dt: float,
    stages: Int[Array, ""],
) -> Float[Array, " params"]:
    """Gradient averaged over a time dt of dw/dt = −D∇L: (w(0) − w(dt)) / (D dt).

    Damped first-order Chebyshev recursion with ``stages`` ≥ 2 gradients, the first of them given:
    y_j = μ_j y_{j−1} + ν_j y_{j−2} − μ̃_j dt D∇L(y_{j−1}), stable for eigenvalues of D H up to (2 − 4ε/3)s²/dt.
    """
    dtype = w.dtype
    s = stages.astype(dtype)
    w0 = 1 + _DAMPING / s**2
    angle = jnp.arccosh(w0)
    w1 = jnp.cosh(s * angle) / (s * jnp.sinh(s * angle)) * jnp.sqrt(w0**2 - 1)

    def body(_: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        older, old, t_older, t_old = carry
        t = 2 * w0 * t_old - t_older
        move = -dt * d * problem.gradient(old)
        new = (2 * w0 * t_old * old - t_older * older + 2 * w1 * t_old * move) / t
        return old, new, t_old, t

    first = w - w1 / w0 * dt * d * gradient
    _, end, _, _ = jax.lax.fori_loop(1, stages, body, (w, first, jnp.ones((), dtype), w0.astype(dtype)))
    return (w - end) / (d * dt)
