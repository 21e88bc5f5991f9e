"""Activations, and how smooth each one is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from cflow_cli.errors import UserError


class Activation(NamedTuple):
    """An elementwise function and what its derivatives do.

    ``roughness`` is None where all derivatives exist, else a phrase that says what fails.
    """

    function: Callable[[Array], Array]
    roughness: str | None


ACTIVATIONS: dict[str, Activation] = {
    "gelu": Activation(partial(jax.nn.gelu, approximate=False), None),
    "silu": Activation(jax.nn.silu, None),
    "tanh": Activation(jnp.tanh, None),
    "softplus": Activation(jax.nn.softplus, None),
    "erf": Activation(jax.scipy.special.erf, None),
    "identity": Activation(lambda x: x, None),
    "relu": Activation(jax.nn.relu, "relu is piecewise linear: its slope jumps at 0"),
    "hardtanh": Activation(jax.nn.hard_tanh, "hardtanh is piecewise linear: its slope jumps at -1 and 1"),
    "elu": Activation(jax.nn.elu, "elu has a continuous slope but its second derivative jumps at 0"),
}


def get_activation(name: str) -> Activation:
    """Look up an activation by name.

    Raises
    ------
    UserError
        If there is none of that name.
    """
    if name not in ACTIVATIONS:
        raise UserError(f"model.activation must be one of {', '.join(ACTIVATIONS)}; got {name!r}")
    return ACTIVATIONS[name]
