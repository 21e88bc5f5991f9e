"""Residual network without batch statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from cflow_cli.datasets.dataset import Dataset
from cflow_cli.errors import UserError
from cflow_cli.models.activations import get_activation
from cflow_cli.models.base import ActivatedModel, Linear, numbers, positive
from cflow_cli.models.cnn import image_shape
from cflow_cli.models.convolution import Conv, average_pool
from cflow_cli.models.normalisation import GroupNorm


def _conv(inputs: int, outputs: int, key: PRNGKeyArray, stride: int, scale: float) -> Conv:
    """3×3 convolution with He's initialisation for the backward pass, N(0, 2/(9·outputs))."""
    return Conv(inputs, outputs, key, stride=stride, scale=scale, deviation=math.sqrt(2 / (9 * outputs)))


class Block(eqx.Module):
    """shortcut(x) + c · norm(conv(φ(norm(conv(x))))), the last norm's scale starting at 0."""

    conv1: Conv
    norm1: GroupNorm
    conv2: Conv
    norm2: GroupNorm
    shortcut: tuple[Conv, GroupNorm] | None
    branch_scale: float = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        key: PRNGKeyArray,
        *,
        stride: int,
        groups: int,
        branch_scale: float,
        residual_init: float,
        init_scale: float,
    ) -> None:
        keys = jax.random.split(key, 3)
        self.conv1 = _conv(inputs, outputs, keys[0], stride, init_scale)
        self.norm1 = GroupNorm(outputs, groups)
        self.conv2 = _conv(outputs, outputs, keys[1], 1, init_scale)
        self.norm2 = GroupNorm(outputs, groups, residual_init)
        self.shortcut = None
        if stride != 1:
            self.shortcut = _conv(inputs, outputs, keys[2], stride, init_scale), GroupNorm(outputs, groups)
        self.branch_scale = branch_scale

    def __call__(self, x: Float[Array, "n h w c"], activation: str) -> Float[Array, "n h2 w2 c2"]:
        """Apply to a batch of images."""
        phi = get_activation(activation).function
        straight = x
        if self.shortcut is not None:
            conv, norm = self.shortcut
            straight = norm(conv(x))
        branch = self.norm2(self.conv2(phi(self.norm1(self.conv1(x)))))
        return straight + self.branch_scale * branch


class ResNet(ActivatedModel):
    """A convolution, stages of residual blocks (each after the first halves the image), pooling, outputs.

    Residual branches are scaled by 1/√(number of blocks); their last scale and the output layer start at 0,
    as in the paper's code.

    Parameters
    ----------
    data
        Images ``(h, w, channels)``; sizes the first and last layer.
    key
        Seed of the initial weights.
    width
        Channels of the first stage; each later stage has twice those before it.
    stages
        Blocks of each stage.
    groups
        Groups of each GroupNorm; null for one per channel of the first stage.
    pool
        Window of the final average pooling.
    activation
        Name in ``cflow_cli.models.activations.ACTIVATIONS``.
    residual_init
        Initial scale of each residual branch.
    head_scale
        Factor on the initial output layer.
    output_scale
        Fixed factor on the outputs.
    init_scale
        Factor on all initial weights.

    Raises
    ------
    UserError
        If the data are not images of a suitable size, or an option is not allowed.
    """

    stem: Conv
    blocks: tuple[Block, ...]
    head: Linear
    pool: int = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    output_scale: float = eqx.field(static=True)

    def __init__(
        self,
        data: Dataset,
        key: PRNGKeyArray,
        width: int = 16,
        stages: Sequence[int] = (3, 3, 3),
        groups: int | None = None,
        pool: int = 4,
        activation: str = "gelu",
        residual_init: float = 0.0,
        head_scale: float = 0.0,
        output_scale: float = 1.0,
        init_scale: float = 1.0,
    ) -> None:
        stages = tuple(stages)
        groups = width if groups is None else groups
        positive(width=width, stages=stages, groups=groups, pool=pool)
        numbers(residual_init=residual_init, head_scale=head_scale)
        numbers(output_scale=output_scale, init_scale=init_scale)
        get_activation(activation)
        if not stages:
            raise UserError("model.stages must name at least one stage, for example [3, 3, 3]")
        if width % groups:
            raise UserError(f"model.groups must divide model.width={width}, got {groups}")
        height, breadth, colours = image_shape(data, "resnet")
        keys = iter(jax.random.split(key, sum(stages) + 2))
        self.stem = _conv(colours, width, next(keys), 1, init_scale)
        blocks = []
        for stage, size in enumerate(stages):
            for block in range(size):
                first = stage > 0 and block == 0
                if first:
                    height, breadth = -(-height // 2), -(-breadth // 2)
                blocks.append(
                    Block(
                        width,
                        2 * width if first else width,
                        next(keys),
                        stride=2 if first else 1,
                        groups=groups,
                        branch_scale=sum(stages) ** -0.5,
                        residual_init=residual_init,
                        init_scale=init_scale,
                    )
                )
                width = 2 * width if first else width
        self.blocks = tuple(blocks)
        if height < pool or breadth < pool:
            raise UserError(
                f"images of {data.input_shape[0]}x{data.input_shape[1]} shrink to {height}x{breadth} in "
                f"{len(stages)} stages, less than model.pool={pool}: use fewer stages or a "
                "smaller pool"
            )
        features = width * (height // pool) * (breadth // pool)
        self.head = Linear(features, data.num_outputs, next(keys), scale=head_scale * init_scale)
        self.pool = pool
        self.activation = activation
        self.output_scale = output_scale

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n outputs"]:
        """Outputs of a batch of images."""
        x = get_activation(self.activation).function(self.stem(x))
        for block in self.blocks:
            x = block(x, self.activation)
        x = average_pool(x, self.pool)
        return self.output_scale * self.head(x.reshape(len(x), -1))
