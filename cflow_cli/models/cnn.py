"""Small convolutional network."""

from __future__ import annotations

from collections.abc import Sequence

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from cflow_cli.datasets.dataset import Dataset
from cflow_cli.errors import UserError
from cflow_cli.models.activations import get_activation
from cflow_cli.models.base import ActivatedModel, Linear, numbers, positive
from cflow_cli.models.convolution import Conv, average_pool, max_pool
from cflow_cli.models.units import Units, units_between

POOLINGS = ("average", "max")


class CNN(ActivatedModel):
    """3×3 convolutions, each followed by an activation and 2×2 pooling, then a dense layer and the outputs.

    Parameters
    ----------
    data
        Images ``(h, w, channels)``; sizes the first and last layer.
    key
        Seed of the initial weights.
    channels
        Output channels of each convolution (no bias).
    dense
        Units of the dense layer (no bias).
    activation
        Name in ``cflow_cli.models.activations.ACTIVATIONS``.
    pooling
        ``average`` (smooth) or ``max`` (not).
    output_scale
        Fixed factor on the outputs.
    init_scale
        Factor on all initial weights.

    Raises
    ------
    UserError
        If the data are not images, or an option is not allowed.
    """

    convolutions: tuple[Conv, ...]
    dense: Linear
    head: Linear
    activation: str = eqx.field(static=True)
    pooling: str = eqx.field(static=True)
    output_scale: float = eqx.field(static=True)

    def __init__(
        self,
        data: Dataset,
        key: PRNGKeyArray,
        channels: Sequence[int] = (32, 64),
        dense: int = 128,
        activation: str = "gelu",
        pooling: str = "average",
        output_scale: float = 1.0,
        init_scale: float = 1.0,
    ) -> None:
        channels = tuple(channels)
        positive(channels=channels, dense=dense)
        numbers(output_scale=output_scale, init_scale=init_scale)
        get_activation(activation)
        if pooling not in POOLINGS:
            raise UserError(f"model.pooling must be one of {', '.join(POOLINGS)}; got {pooling!r}")
        height, width, colours = image_shape(data, "cnn")
        height, width = height >> len(channels), width >> len(channels)
        if not height or not width:
            raise UserError(
                f"model.channels has {len(channels)} convolutions, each of which halves the image, but "
                f"images are {data.input_shape[0]}x{data.input_shape[1]}: use fewer"
            )
        keys = jax.random.split(key, len(channels) + 2)
        self.convolutions = tuple(
            Conv(a, b, k, scale=init_scale) for a, b, k in zip((colours, *channels[:-1]), channels, keys)
        )
        features = height * width * (channels[-1] if channels else colours)
        self.dense = Linear(features, dense, keys[-2], bias=False, scale=init_scale)
        self.head = Linear(dense, data.num_outputs, keys[-1], scale=init_scale)
        self.activation = activation
        self.pooling = pooling
        self.output_scale = output_scale

    @property
    def roughness(self) -> str | None:
        """What fails in the activation or in max-pooling."""
        of_pooling = "max-pooling switches between pixels: its slope jumps where two are equal"
        parts = [of_pooling if self.pooling == "max" else None, get_activation(self.activation).roughness]
        return "; ".join(part for part in parts if part is not None) or None

    @property
    def units(self) -> tuple[Units, ...]:
        """Channels of each convolution, then units of the dense layer."""
        # Channels are innermost both in the rows of a patch and in those of a flattened image.
        layers = [
            *(convolution.weight for convolution in self.convolutions),
            self.dense.weight,
            self.head.weight,
        ]
        return units_between(layers, [None] * len(layers))

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n outputs"]:
        """Outputs of a batch of images."""
        phi = get_activation(self.activation).function
        pool = average_pool if self.pooling == "average" else max_pool
        for convolution in self.convolutions:
            x = pool(phi(convolution(x)), 2)
        return self.output_scale * self.head(phi(self.dense(x.reshape(len(x), -1))))


def image_shape(data: Dataset, model: str) -> tuple[int, int, int]:
    """Height, width and channels of the data's images.

    Raises
    ------
    UserError
        If the data are not images.
    """
    if data.task == "tokens" or len(data.input_shape) != 3:
        fitting = {
            "tokens": "model=transformer, model=lstm or model=mamba",
            "entries": "model=matrix_factorisation",
        }
        others = fitting.get(data.task, "model=mlp")
        raise UserError(
            f"model {model} works on images, but data {data.name} has inputs of shape {data.input_shape}: "
            f"choose data=digits or data=cifar10, or {others}"
        )
    height, width, channels = data.input_shape
    return height, width, channels
