"""Fully connected network on flattened inputs."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from cflow_cli.datasets.dataset import Dataset
from cflow_cli.models.activations import get_activation
from cflow_cli.models.base import ActivatedModel, Linear, flat_size, numbers, positive
from cflow_cli.models.units import Units, units_between


class MLP(ActivatedModel):
    """Linear layers with an activation between each two: f(x) = c · W_L φ(… φ(W_1 x + b_1) …) + b_L.

    Parameters
    ----------
    data
        Sizes the first and last layer.
    key
        Seed of the initial weights.
    widths
        Units of each hidden layer; as many layers as numbers, none for a linear model.
    activation
        Name in ``cflow_cli.models.activations.ACTIVATIONS``.
    bias
        Whether layers have biases.
    output_scale
        c, a fixed factor on the outputs.
    init_scale
        Factor on all initial weights.

    Raises
    ------
    UserError
        If a width or the activation is not allowed.
    """

    layers: tuple[Linear, ...]
    activation: str = eqx.field(static=True)
    output_scale: float = eqx.field(static=True)

    def __init__(
        self,
        data: Dataset,
        key: PRNGKeyArray,
        widths: Sequence[int] = (256, 256),
        activation: str = "gelu",
        bias: bool = True,
        output_scale: float = 1.0,
        init_scale: float = 1.0,
    ) -> None:
        widths = tuple(widths)
        positive(widths=widths)
        numbers(output_scale=output_scale, init_scale=init_scale)
        get_activation(activation)
        sizes = (flat_size(data, "mlp"), *widths, data.num_outputs)
        keys = jax.random.split(key, len(sizes) - 1)
        self.layers = tuple(
            Linear(a, b, k, bias=bias, scale=init_scale) for a, b, k in zip(sizes[:-1], sizes[1:], keys)
        )
        self.activation = activation
        self.output_scale = output_scale

    @property
    def units(self) -> tuple[Units, ...]:
        """Units of each hidden layer."""
        return units_between([layer.weight for layer in self.layers], [layer.bias for layer in self.layers])

    def __call__(self, x: Float[Array, "n ..."]) -> Float[Array, "n outputs"]:
        """Outputs of a batch; inputs of any shape are flattened."""
        phi = get_activation(self.activation).function
        h = x.reshape(len(x), -1)
        for layer in self.layers[:-1]:
            h = phi(layer(h))
        return self.output_scale * self.layers[-1](h)
