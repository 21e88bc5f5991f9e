"""Scalar RMSProp: RMSProp with one second moment for all weights, which optax does not have."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


class ScaleByGlobalRmsState(NamedTuple):
    """Number of steps taken and EMA ν of the squared gradient norm."""

    count: Int[Array, ""]  # type: ignore[assignment]  # optax's name for it, over tuple.count
    nu: Float[Array, ""]


def scale_by_global_rms(
    b2: float = 0.99, eps: float = 1e-8, bias_correction: bool = False
) -> optax.GradientTransformation:
    """Divide the gradient by the root of an EMA of its squared norm.

    ν' = β₂ν + (1 − β₂)‖g‖²,  u = g / (√ν̂' + ε), with ν̂ = ν/(1 − β₂ᵗ) under bias correction.

    Parameters
    ----------
    b2
        Decay β₂ of the EMA, in [0, 1).
    eps
        ε, outside the root.
    bias_correction
        Divide ν by 1 − β₂ᵗ, so that the first steps are of ordinary length.

    Notes
    -----
    Scalar RMSProp of Cohen et al., arXiv:2410.24206, section 4.
    """

    def init(params: Any) -> ScaleByGlobalRmsState:
        dtype = jnp.result_type(*jax.tree.leaves(params))
        return ScaleByGlobalRmsState(jnp.zeros([], jnp.int32), jnp.zeros([], dtype))

    def update(
        updates: Any, state: ScaleByGlobalRmsState, params: Any = None
    ) -> tuple[Any, ScaleByGlobalRmsState]:
        del params
        count = optax.safe_increment(state.count)
        norm_sq = sum(jnp.sum(g * g) for g in jax.tree.leaves(updates))
        nu = (b2 * state.nu + (1 - b2) * norm_sq).astype(state.nu.dtype)
        corrected = nu / (1 - b2 ** count.astype(nu.dtype)) if bias_correction else nu
        scale = 1 / (jnp.sqrt(corrected) + eps)
        return jax.tree.map(lambda g: g * scale, updates), ScaleByGlobalRmsState(count, nu)

    return optax.GradientTransformation(init, update)


def scalar_rmsprop(
    learning_rate: optax.ScalarOrSchedule, b2: float = 0.99, eps: float = 1e-8, bias_correction: bool = False
) -> optax.GradientTransformation:
    """Scalar RMSProp: Δ = −η g/(√ν + ε) with one global ν, an EMA of ‖g‖².

    Parameters
    ----------
    learning_rate
        η, a number or an optax schedule.
    b2, eps, bias_correction
        As in :func:`scale_by_global_rms`.
    """
    return optax.chain(
        scale_by_global_rms(b2, eps, bias_correction), optax.scale_by_learning_rate(learning_rate)
    )
