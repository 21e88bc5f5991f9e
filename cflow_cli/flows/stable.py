"""The stable flow: the optimizer's smooth limit, as if it never oscillated.

For gradient descent dw/dt = −η∇L, gradient flow; for RMSProp dw/dt = −η∇L/√ν with ν an EMA of ∇L². In general the
optimizer's own map with the gradient averaged over the step along dw/dt = −D∇L. Below the edge that average is the
gradient and a step of dt = 1 is one of the optimizer. Above it a single gradient would overshoot, and the average is
taken with a Runge–Kutta–Chebyshev method, stable up to S_eff ≈ 1.93 s² with s gradients.

It is the central flow with X = 0 (:mod:`cflow_cli.flows.central`), and the two agree to the bit where neither has a
critical direction, because they are stepped by the same compiled program.

Sources: Cohen et al., arXiv:2410.24206, sections 3–5 (stable flows); van der Houwen & Sommeijer, ZAMM 60 (1980), for
the Chebyshev recursion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cflow_cli.problem import Problem

# ε of the recursion: the usual one; it makes every mode decay and costs 3 % of the reach.
_DAMPING = 0.05
# Stages are chosen as if S_eff were this much larger, because it grows within the step.
_MARGIN = 1.1
# Stable up to S_eff ≈ 19,000, which no run reaches: flows stop at eigs.max_sharpness, 100 by default.
_MOST_STAGES = 100


def num_stages(reach: Float[Array, ""], critical_above: float) -> Int[Array, ""]:
    """Gradients needed for a step with ``reach`` = dt S_eff: 1 up to ``critical_above``, then about √(reach/1.9)."""
    stages = jnp.ceil(jnp.sqrt(_MARGIN * jnp.maximum(reach, 0) / (2 - 4 / 3 * _DAMPING)))
    return jnp.where(reach > critical_above, jnp.clip(stages, 2, _MOST_STAGES), 1).astype(jnp.int32)


def mean_gradient(
    problem: Problem,
    w: Float[Array, " params"],
    gradient: Float[Array, " params"],
    d: Float[Array, " params_or_1"],
    dt: float,
    stages: Int[Array, ""],
) -> Float[Array, " params"]:
    """Gradient averaged over a time dt of dw/dt = −D∇L: (w(0) − w(dt)) / (D dt); with one stage, the gradient.

    Damped first-order Chebyshev recursion with ``stages`` gradients, the first of them given:
    y_j = μ_j y_{j−1} + ν_j y_{j−2} − μ̃_j dt D∇L(y_{j−1}), stable for eigenvalues of D H up to (2 − 4ε/3)s²/dt.
    """
    w0, w1 = _coefficients(stages, w.dtype)

    def several(gradient: Array) -> Array:
        first = w - w1 / w0 * dt * d * gradient
        end = _chebyshev(w, first, lambda y: -dt * d * problem.gradient(y), w0, w1, stages)
        return (w - end) / (d * dt)

    return jax.lax.cond(stages > 1, several, lambda g: g, gradient)


def mean_gradient_along(
    problem: Problem,
    w: Float[Array, " params"],
    gradient: Float[Array, " params"],
    step_size: Callable[[Array], Array],
    stages: Int[Array, ""],
) -> Float[Array, " params"]:
    """The same over a whole step where D is an operator, g ↦ D g: the recursion runs in q, with y = w − D q."""
    w0, w1 = _coefficients(stages, w.dtype)

    def several(gradient: Array) -> Array:
        first = w1 / w0 * gradient
        return _chebyshev(
            jnp.zeros_like(w), first, lambda q: problem.gradient(w - step_size(q)), w0, w1, stages
        )

    return jax.lax.cond(stages > 1, several, lambda g: g, gradient)


def _coefficients(stages: Int[Array, ""], dtype: Any) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """w₀ = 1 + ε/s² and w₁ = T_s(w₀)/T_s'(w₀) of the recursion with s stages."""
    s = stages.astype(dtype)
    w0 = 1 + _DAMPING / s**2
    angle = jnp.arccosh(w0)
    return w0, jnp.cosh(s * angle) / (s * jnp.sinh(s * angle)) * jnp.sqrt(w0**2 - 1)


def _chebyshev(
    start: Float[Array, " params"],
    first: Float[Array, " params"],
    move: Callable[[Array], Array],
    w0: Float[Array, ""],
    w1: Float[Array, ""],
    stages: Int[Array, ""],
) -> Float[Array, " params"]:
    """y_s of the recursion from y_0 and y_1, with the move dt y' at every y."""

    def recur(_: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        older, old, t_older, t_old = carry
        t = 2 * w0 * t_old - t_older
        new = (2 * w0 * t_old * old - t_older * older + 2 * w1 * t_old * move(old)) / t
        return old, new, t_old, t

    return jax.lax.fori_loop(1, stages, recur, (start, first, jnp.ones((), start.dtype), w0))[1]
