"""Scalar Adam: Adam with one second moment for all weights, which optax does not have."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


class ScaleByScalarAdamState(NamedTuple):
    """Number of steps taken, EMA m of the gradient, EMA ν of its squared norm."""

    count: Int[Array, ""]  # type: ignore[assignment]  # optax's name for it, over tuple.count
    mu: Any
    nu: Float[Array, ""]


def scale_by_scalar_adam(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, bias_correction: bool = True
) -> optax.GradientTransformation:
    """EMA of the gradient over the root of an EMA of its squared norm.

    m' = β₁m + (1 − β₁)g,  ν' = β₂ν + (1 − β₂)‖g‖²,  u = m̂' / (√ν̂' + ε); under bias correction m̂ = m/(1 − β₁ᵗ) and
    ν̂ = ν/(1 − β₂ᵗ).

    Parameters
    ----------
    b1, b2
        Decays of the EMAs, in [0, 1).
    eps
        ε, outside the root; in units of the gradient's norm.
    bias_correction
        Divide both EMAs by what they have seen so far.
    """

    def init(params: Any) -> ScaleByScalarAdamState:
        dtype = jnp.result_type(*jax.tree.leaves(params))
        zeros = jax.tree.map(jnp.zeros_like, params)
        return ScaleByScalarAdamState(jnp.zeros([], jnp.int32), zeros, jnp.zeros([], dtype))

    def update(
        updates: Any, state: ScaleByScalarAdamState, params: Any = None
    ) -> tuple[Any, ScaleByScalarAdamState]:
        del params
        count = optax.safe_increment(state.count)
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        norm_sq = sum(jnp.sum(g * g) for g in jax.tree.leaves(updates))
        nu = (b2 * state.nu + (1 - b2) * norm_sq).astype(state.nu.dtype)
        t = count.astype(nu.dtype)
        first, second = (1 - b1**t, 1 - b2**t) if bias_correction else (1.0, 1.0)
        scale = 1 / (first * (jnp.sqrt(nu / second) + eps))
        return jax.tree.map(lambda m: m * scale, mu), ScaleByScalarAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def scalar_adam(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    bias_correction: bool = True,
) -> optax.GradientTransformation:
    """Scalar Adam: Δ = −η m/(√ν + ε) with one global ν, an EMA of ‖g‖².

    Parameters
    ----------
    learning_rate
        η, a number or an optax schedule.
    b1, b2, eps, bias_correction
        As in :func:`scale_by_scalar_adam`.
    """
    return optax.chain(
        scale_by_scalar_adam(b1, b2, eps, bias_correction), optax.scale_by_learning_rate(learning_rate)
    )
