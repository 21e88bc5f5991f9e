"""Decoupled weight decay on any optimizer."""

from __future__ import annotations

import optax


def with_weight_decay(
    optimizer: optax.GradientTransformation, learning_rate: optax.ScalarOrSchedule, weight_decay: float = 1e-4
) -> optax.GradientTransformation:
    """Add decoupled weight decay to the step of an optimizer: Δ = Δ_optimizer − ηκw.

    The decay moves the weights and leaves the optimizer's state alone, so the effective preconditioner D and the edge
    of stability are those of the optimizer itself.

    Parameters
    ----------
    optimizer
        Any optax transformation, its learning rate included.
    learning_rate
        η of the decay, a number or an optax schedule; as a rule the optimizer's own.
    weight_decay
        κ, in 1/weight.

    Notes
    -----
    On Adam this is AdamW: Loshchilov & Hutter, arXiv:1711.05101.
    """
    decay = optax.chain(
        optax.set_to_zero(),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(learning_rate),
    )

    def init(params: optax.Params) -> tuple[optax.OptState, optax.OptState]:
        return optimizer.init(params), decay.init(params)

    def update(
        updates: optax.Updates,
        state: tuple[optax.OptState, optax.OptState],
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, tuple[optax.OptState, optax.OptState]]:
        step, inner = optimizer.update(updates, state[0], params)
        shrinkage, own = decay.update(updates, state[1], params)
        return optax.apply_updates(step, shrinkage), (inner, own)

    return optax.GradientTransformation(init, update)
