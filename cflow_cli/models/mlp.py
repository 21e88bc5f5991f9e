"""Fully connected network on flattened inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from cflow_cli.datasets.dataset import Dataset
from cflow_cli.errors import UserError, did_you_mean
from cflow_cli.models.activations import get_activation
from cflow_cli.models.base import ActivatedModel, Linear, flat_size, numbers, positive
from cflow_cli.models.limit import Limit, few_inputs
from cflow_cli.models.parametrisation import SIGMA_B, SIGMA_W, NTKLinear, dense_layers
from cflow_cli.models.units import Units, units_between

OUTPUTS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda z: z,
    "tanh": jnp.tanh,
    "softmax": jax.nn.softmax,
}


class MLP(ActivatedModel):
    """Linear layers with an activation between each two: f(x) = c · ψ(W_L φ(… φ(W_1 x + b_1) …) + b_L).

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
    parametrisation
        ``standard`` (weights uniform in ±1/√fan_in) or ``ntk`` (weights N(0, 1), with fixed factors σ_w/√fan_in on
        them and σ_b on biases), in which the tangent kernel has a limit for wide layers.
    sigma_w, sigma_b
        Those factors; only with ``ntk``.
    bottleneck
        Units of the middle hidden layer instead of its own; None for none.
    output
        ψ: ``linear`` (none), ``tanh`` or ``softmax``.

    Raises
    ------
    UserError
        If an option is not allowed.

    Notes
    -----
    A nonlinear output and a bottleneck each keep a wide network from becoming linear in its weights: Liu, Zhu, Belkin,
    arXiv:2010.01092, sections 4 and 5.
    """

    layers: tuple[Linear | NTKLinear, ...]
    activation: str = eqx.field(static=True)
    output_scale: float = eqx.field(static=True)
    init_scale: float = eqx.field(static=True)
    parametrisation: str = eqx.field(static=True)
    bottleneck: int | None = eqx.field(static=True)
    output: str = eqx.field(static=True)

    def __init__(
        self,
        data: Dataset,
        key: PRNGKeyArray,
        widths: Sequence[int] = (256, 256),
        activation: str = "gelu",
        bias: bool = True,
        output_scale: float = 1.0,
        init_scale: float = 1.0,
        parametrisation: str = "standard",
        sigma_w: float = SIGMA_W,
        sigma_b: float = SIGMA_B,
        bottleneck: int | None = None,
        output: str = "linear",
    ) -> None:
        widths = tuple(widths)
        positive(widths=widths)
        numbers(output_scale=output_scale, init_scale=init_scale)
        get_activation(activation)
        _check_output(output, data)
        sizes = (flat_size(data, "mlp"), *_narrowed(widths, bottleneck), data.num_outputs)
        self.layers = dense_layers(
            sizes, key, parametrisation, bias=bias, scale=init_scale, sigma_w=sigma_w, sigma_b=sigma_b
        )
        self.activation = activation
        self.output_scale = output_scale
        self.init_scale = init_scale
        self.parametrisation = parametrisation
        self.bottleneck = bottleneck
        self.output = output

    @property
    def units(self) -> tuple[Units, ...]:
        """Units of each hidden layer."""
        return units_between([layer.weight for layer in self.layers], [layer.bias for layer in self.layers])

    @property
    def limit(self) -> Limit | None:
        """The network with all hidden layers infinitely wide, which neither a bottleneck nor ψ would leave a kernel."""
        if self.bottleneck is not None or self.output != "linear":
            return None
        fans = [layer.weight.shape[0] for layer in self.layers]
        layers = tuple(layer.limit(fan, self.init_scale) for layer, fan in zip(self.layers, fans))
        return Limit(
            activation=self.activation,
            hidden=layers[:-1],
            readouts=("dense",),
            heads=(layers,),
            readout="dense",
            scale=self.output_scale,
            few_inputs=few_inputs(fans[0], self.parametrisation),
        )

    def __call__(self, x: Float[Array, "n ..."]) -> Float[Array, "n outputs"]:
        """Outputs of a batch; inputs of any shape are flattened."""
        phi = get_activation(self.activation).function
        h = x.reshape(len(x), -1)
        for layer in self.layers[:-1]:
            h = phi(layer(h))
        return self.output_scale * OUTPUTS[self.output](self.layers[-1](h))


def _check_output(output: str, data: Dataset) -> None:
    if output not in OUTPUTS:
        hint = did_you_mean(str(output), OUTPUTS)
        raise UserError(f"model.output must be one of {', '.join(OUTPUTS)}; got {output!r}{hint}")
    if output == "softmax" and data.num_outputs < 2:
        raise UserError(
            f"model.output=softmax is 1 whatever the weights are, as data {data.name} has one output: "
            "choose model.output=tanh"
        )


def _narrowed(widths: tuple[int, ...], bottleneck: int | None) -> tuple[int, ...]:
    """Widths with that of the middle layer replaced."""
    if bottleneck is None:
        return widths
    positive(bottleneck=bottleneck)
    if len(widths) < 2:
        raise UserError(
            "model.bottleneck is the width of the middle one of several hidden layers, "
            f"but the model has {len(widths)}: give it two or more"
        )
    middle = len(widths) // 2
    return (*widths[:middle], bottleneck, *widths[middle + 1 :])
