"""Adam without bias correction, for which optax has no switch."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class ScaleByAdamUncorrectedState(NamedTuple):
    """EMAs m of the gradient and ν of its square."""

    mu: Any
    nu: Any


def scale_by_adam_uncorrected(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    """EMA of the gradient over the root of an EMA of its square, both as they are from their start at zero.

    m' = β₁m + (1 − β₁)g,  ν' = β₂ν + (1 − β₂)g²,  u = m' / (√ν' + ε).

    Parameters
    ----------
    b1, b2
        Decays of the EMAs, in [0, 1).
    eps
        ε, outside the root.
    """

    def init(params: Any) -> ScaleByAdamUncorrectedState:
        return ScaleByAdamUncorrectedState(
            jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)
        )

    def update(
        updates: Any, state: ScaleByAdamUncorrectedState, params: Any = None
    ) -> tuple[Any, ScaleByAdamUncorrectedState]:
        del params
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        step = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return step, ScaleByAdamUncorrectedState(mu, nu)

    return optax.GradientTransformation(init, update)


def adam_uncorrected(
    learning_rate: optax.ScalarOrSchedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> optax.GradientTransformation:
    """Adam without bias correction: Δ = −η m/(√ν + ε).

    The first steps are longer than Adam's by (1 − β₁)/√(1 − β₂), threefold at the defaults.

    Parameters
    ----------
    learning_rate
        η, a number or an optax schedule.
    b1, b2, eps
        As in :func:`scale_by_adam_uncorrected`.
    """
    return optax.chain(scale_by_adam_uncorrected(b1, b2, eps), optax.scale_by_learning_rate(learning_rate))
