"""How the weights of a fully connected network are scaled: as PyTorch does, or as the theory of wide networks does."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from cflow_cli.errors import UserError, did_you_mean
from cflow_cli.models.base import Linear, numbers
from cflow_cli.models.limit import LayerLimit

PARAMETRISATIONS = ("standard", "ntk")
SIGMA_W, SIGMA_B = 1.0, 0.1


class NTKLinear(eqx.Module):
    """(σ_w/√fan_in) x @ weight + σ_b bias on the last axis; weight and bias are N(0, 1) at the start.

    The factors are no part of the weights, so that neither the tangent kernel nor the learning rates that are stable
    depend on the width (Jacot, Gabriel, Hongler, arXiv:1806.07572, with its σ_w = 1 and β = σ_b = 0.1).
    """

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"] | None
    sigma_w: float = eqx.field(static=True)
    sigma_b: float = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        key: PRNGKeyArray,
        *,
        bias: bool = True,
        scale: float = 1.0,
        sigma_w: float = SIGMA_W,
        sigma_b: float = SIGMA_B,
    ) -> None:
        weight_key, bias_key = jax.random.split(key)
        self.weight = scale * jax.random.normal(weight_key, (inputs, outputs), jnp.float32)
        self.bias = scale * jax.random.normal(bias_key, (outputs,), jnp.float32) if bias else None
        self.sigma_w = float(sigma_w)
        self.sigma_b = float(sigma_b)

    def __call__(
        self, x: Float[Array, "... inputs"], product: Callable[[Array, Array], Array] = operator.matmul
    ) -> Float[Array, "... outputs"]:
        """Apply to every vector along the last axis, or what else ``product`` makes of an input and the matrix."""
        y = self.sigma_w / math.sqrt(self.weight.shape[0]) * (product(x, self.weight))
        return y if self.bias is None else y + self.sigma_b * self.bias

    def limit(self, fan_in: int, scale: float) -> LayerLimit:
        """What remains of such a layer with wide neighbours, for the ``scale`` that it was made with."""
        return LayerLimit.ntk(self.sigma_w, self.sigma_b, bias=self.bias is not None, scale=scale)


def dense_layers(
    sizes: Sequence[int],
    key: PRNGKeyArray,
    parametrisation: str,
    *,
    bias: bool,
    scale: float,
    sigma_w: float,
    sigma_b: float,
) -> tuple[Linear | NTKLinear, ...]:
    """The layers between neighbours of ``sizes``, each with a key of its own.

    Parameters
    ----------
    sizes
        Inputs, units of each hidden layer, outputs.
    key
        Seed of the initial weights.
    parametrisation
        ``standard`` (:class:`cflow_cli.models.base.Linear`) or ``ntk`` (:class:`NTKLinear`).
    bias
        Whether layers have biases.
    scale
        Factor on all initial weights.
    sigma_w, sigma_b
        Of ``ntk``; the standard parametrisation has no such factors.

    Raises
    ------
    UserError
        If an option is not allowed, or is not one of this parametrisation.
    """
    if parametrisation not in PARAMETRISATIONS:
        raise UserError(
            f"model.parametrisation must be one of {', '.join(PARAMETRISATIONS)}; got {parametrisation!r}"
            f"{did_you_mean(str(parametrisation), PARAMETRISATIONS)}"
        )
    numbers(sigma_w=sigma_w, sigma_b=sigma_b)
    if sigma_w <= 0 or sigma_b < 0:
        raise UserError(
            "model.sigma_w must be positive and model.sigma_b must not be negative, "
            f"got {sigma_w} and {sigma_b}"
        )
    pairs = list(zip(itertools.pairwise(sizes), jax.random.split(key, len(sizes) - 1)))
    if parametrisation == "ntk":
        factors = {"sigma_w": sigma_w, "sigma_b": sigma_b}
        return tuple(NTKLinear(a, b, k, bias=bias, scale=scale, **factors) for (a, b), k in pairs)
    if (sigma_w, sigma_b) != (SIGMA_W, SIGMA_B):
        raise UserError(
            "model.sigma_w and model.sigma_b are factors of the ntk parametrisation: "
            "add model.parametrisation=ntk, or scale the initial weights with model.init_scale"
        )
    return tuple(Linear(a, b, k, bias=bias, scale=scale) for (a, b), k in pairs)
