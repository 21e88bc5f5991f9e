"""Convolutional network without pooling between its layers, whose infinitely wide limit is the CNTK."""

from __future__ import annotations

import itertools
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from cflow_cli.datasets.dataset import Dataset
from cflow_cli.errors import UserError, did_you_mean
from cflow_cli.models.activations import get_activation
from cflow_cli.models.base import ActivatedModel, Linear, numbers, positive
from cflow_cli.models.cnn import image_shape
from cflow_cli.models.convolution import convolve
from cflow_cli.models.limit import LayerLimit, Limit, few_inputs
from cflow_cli.models.parametrisation import SIGMA_B, SIGMA_W, NTKLinear, dense_layers
from cflow_cli.models.units import Units, units_between

READOUTS = ("gap", "flatten")
WINDOW = 3


class PlainCNN(ActivatedModel):
    """3×3 "same" convolutions of one width with an activation after each, then one output layer.

    Parameters
    ----------
    data
        Images ``(h, w, channels)``; sizes the first and last layer.
    key
        Seed of the initial weights.
    depth
        Linear layers: ``depth`` − 1 convolutions and the output layer.
    width
        Channels of each convolution.
    readout
        What the output layer is on: ``gap`` (the mean over pixels) or ``flatten`` (all pixels).
    activation
        Name in ``cflow_cli.models.activations.ACTIVATIONS``.
    bias
        Whether layers have biases.
    output_scale
        Fixed factor on the outputs.
    init_scale
        Factor on all initial weights.
    parametrisation
        ``standard`` (weights uniform in ±1/√fan_in) or ``ntk`` (weights N(0, 1), with fixed factors σ_w/√fan_in on
        them and σ_b on biases).
    sigma_w, sigma_b
        Those factors; only with ``ntk``.

    Raises
    ------
    UserError
        If the data are not images, or an option is not allowed.

    Notes
    -----
    Arora, Du, Hu, Li, Salakhutdinov, Wang, arXiv:1904.11955, section 4: its kernels for wide layers are CNTK-GAP and
    CNTK-V.
    """

    convolutions: tuple[Linear | NTKLinear, ...]
    head: Linear | NTKLinear
    readout: str = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    output_scale: float = eqx.field(static=True)
    init_scale: float = eqx.field(static=True)
    parametrisation: str = eqx.field(static=True)
    shape: tuple[int, int, int] = eqx.field(static=True)

    def __init__(
        self,
        data: Dataset,
        key: PRNGKeyArray,
        depth: int = 4,
        width: int = 32,
        readout: str = "gap",
        activation: str = "gelu",
        bias: bool = True,
        output_scale: float = 1.0,
        init_scale: float = 1.0,
        parametrisation: str = "standard",
        sigma_w: float = SIGMA_W,
        sigma_b: float = SIGMA_B,
    ) -> None:
        positive(depth=depth, width=width)
        numbers(output_scale=output_scale, init_scale=init_scale)
        get_activation(activation)
        if readout not in READOUTS:
            hint = did_you_mean(str(readout), READOUTS)
            raise UserError(f"model.readout must be one of {', '.join(READOUTS)}; got {readout!r}{hint}")
        self.shape = image_shape(data, "plain_cnn")
        height, columns, colours = self.shape
        channels = (colours, *[width] * (depth - 1))
        pixels = 1 if readout == "gap" else height * columns
        layers = [(WINDOW**2 * a, b) for a, b in itertools.pairwise(channels)]
        layers.append((pixels * channels[-1], data.num_outputs))
        *convolutions, head = (
            dense_layers(
                sizes, k, parametrisation, bias=bias, scale=init_scale, sigma_w=sigma_w, sigma_b=sigma_b
            )[0]
            for sizes, k in zip(layers, jax.random.split(key, depth))
        )
        self.convolutions, self.head = tuple(convolutions), head
        self.readout = readout
        self.activation = activation
        self.output_scale = output_scale
        self.init_scale = init_scale
        self.parametrisation = parametrisation

    @property
    def units(self) -> tuple[Units, ...]:
        """Channels of each convolution; innermost in the rows of a patch and of a flattened image."""
        layers = (*self.convolutions, self.head)
        return units_between([layer.weight for layer in layers], [layer.bias for layer in layers])

    @property
    def limit(self) -> Limit:
        """The CNTK's network; both readouts at every depth."""
        height, columns, colours = self.shape
        depth = len(self.convolutions) + 1
        width = self.head.weight.shape[0] // (1 if self.readout == "gap" else height * columns)
        channels = (colours, *[width] * (depth - 1))

        def layer(fan_in: int) -> LayerLimit:
            return self.head.limit(fan_in, self.init_scale)

        return Limit(
            activation=self.activation,
            hidden=tuple(layer(WINDOW**2 * c) for c in channels[:-1]),
            readouts=READOUTS,
            heads=tuple(tuple(layer(pixels * c) for c in channels) for pixels in (1, height * columns)),
            readout=self.readout,
            convolution=WINDOW,
            scale=self.output_scale,
            few_inputs=few_inputs(WINDOW**2 * colours, self.parametrisation),
        )

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n outputs"]:
        """Outputs of a batch of images."""
        phi = get_activation(self.activation).function
        for convolution in self.convolutions:
            x = phi(convolution(x, partial(convolve, size=WINDOW)))
        h = jnp.mean(x, axis=(1, 2)) if self.readout == "gap" else x.reshape(len(x), -1)
        return self.output_scale * self.head(h)
