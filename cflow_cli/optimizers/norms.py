"""Optimizers that look at the norm of the gradient: normalised gradient descent, and clipping around any other."""

from __future__ import annotations

import optax


def normalised_gd(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Normalised gradient descent: Δ = −η g/‖g‖ over all weights.

    Parameters
    ----------
    learning_rate
        η, the length of a step, a number or an optax schedule.
    """
    return optax.chain(optax.normalize_by_update_norm(), optax.scale_by_learning_rate(learning_rate))


def clipped(optimizer: optax.GradientTransformation, max_norm: float = 1.0) -> optax.GradientTransformation:
    """An optimizer that is given g·min(1, c/‖g‖) instead of g, ‖g‖ over all weights.

    Parameters
    ----------
    optimizer
        Any optax transformation, its learning rate included.
    max_norm
        c, in units of the gradient.

    Notes
    -----
    Pascanu, Mikolov and Bengio, arXiv:1211.5063.
    """
    return optax.chain(optax.clip_by_global_norm(max_norm), optimizer)
