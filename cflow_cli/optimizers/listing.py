"""What an optimizer is to a flow: its state, its threshold, and whether it has flows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from cflow_cli.optimizers.classify import COUNTER, EVEN, ODD
from cflow_cli.optimizers.operator_map import OperatorMap
from cflow_cli.optimizers.probing import map_of, operator_map_of
from cflow_cli.optimizers.update_map import UpdateMap

# Weights that an optimizer is probed with: two halves of two tell what it does to each from what it does to all.
_SIZE = 4
# Layers for one that is not elementwise, and may tell matrices from vectors.
_LAYERS = {"weight": np.zeros((4, 3)), "bias": np.zeros(3)}
# So many steps that every bias correction has died out, also for b2 = 0.99999.
_LATE = 10_000_000


@dataclass(frozen=True)
class Row:
    """One optimizer.

    Parameters
    ----------
    name
        Its choice in the config group ``optimizer``.
    state
        Leaves of its state: name and parity under g → −g.
    threshold
        Value of η·λ_max(P⁻¹H) at the edge of stability; None where there is none.
    refusal
        None; or which flows it has not, and why.
    summary
        The first comment of its file.
    """

    name: str
    state: str
    threshold: float | None
    refusal: str | None
    summary: str


def threshold(update: UpdateMap) -> float:
    """Value of η·λ_max(P⁻¹H) at the edge of stability of an optimizer built with η = 1: 2/D at P = I.

    Every second moment is one and the step count so large that bias corrections have died out. A constant unit
    gradient would bring most optimizers there, but not AdaBelief, whose ν it sends to zero, or AdaGrad, whose sum of
    squares grows for ever.

    Parameters
    ----------
    update
        Without refusal.
    """
    state = update.init(jnp.zeros(update.size, update.dtype))
    filler = {ODD: 0, EVEN: 1, COUNTER: _LATE}
    leaves = [jnp.full_like(x, filler[p]) for x, p in zip(jax.tree.leaves(state), update.parity, strict=True)]
    d, _ = jax.jit(
        lambda leaves: update.linear_response(jax.tree.unflatten(jax.tree.structure(state), leaves))
    )(leaves)
    return float(2 / d[0])


def describe(name: str, optimizer: optax.GradientTransformation, summary: str) -> Row:
    """The row of an optimizer built with η = 1."""
    w = jnp.zeros(_SIZE)
    with warnings.catch_warnings():
        # Probing a discontinuous optimizer makes optax or JAX warn; the refusal says it better.
        warnings.simplefilter("ignore")
        update = map_of(optimizer, w)
        if isinstance(update, OperatorMap):
            w, unravel = ravel_pytree(_LAYERS)
            update = operator_map_of(optimizer, w, unravel)
    paths = jax.tree_util.tree_flatten_with_path(jax.eval_shape(update.init, w))[0]
    leaves = [(_name(p), parity) for (p, _), parity in zip(paths, update.parity, strict=True)]
    state = ", ".join(dict.fromkeys(n if p == COUNTER else f"{n} ({p})" for n, p in leaves)) or "none"
    value = threshold(update) if isinstance(update, UpdateMap) and not update.refusal else None
    refusal = f"no: {update.refusal}" if update.refusal else None
    if update.is_operator:
        refusal = "stable and central: not elementwise, its D is an operator"
    if not update.stiffens:
        refusal = "stable, rod and two_phase only: a small oscillation shrinks its second moment"
    return Row(name, state, value, refusal, summary)


def _name(path: Sequence[Any]) -> str:
    named = [key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)]
    return named[-1] if named else "state"
