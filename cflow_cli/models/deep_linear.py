"""Deep linear network, the smallest model with curvature that changes."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from cflow_cli.datasets.dataset import Dataset
from cflow_cli.errors import UserError
from cflow_cli.models.base import Model, flat_size, numbers, positive
from cflow_cli.models.units import Units, units_between

INITS = ("gaussian", "identity")


class DeepLinear(Model):
    """f(x) = c · W_Lᵀ … W_1ᵀ x, without biases.

    Parameters
    ----------
    data
        Sizes the first and last layer.
    key
        Seed of the initial weights.
    depth
        Number of matrices, at least 1.
    width
        Units between two of them.
    init
        ``gaussian`` (N(0, 1/fan_in)) or ``identity`` (ones on the diagonal).
    output_scale
        c, a fixed factor on the outputs.
    init_scale
        Factor on the initial matrices.

    Raises
    ------
    UserError
        If an option is not allowed.
    """

    matrices: tuple[Float[Array, "inputs outputs"], ...]
    output_scale: float = eqx.field(static=True)

    def __init__(
        self,
        data: Dataset,
        key: PRNGKeyArray,
        depth: int = 3,
        width: int = 32,
        init: str = "gaussian",
        output_scale: float = 1.0,
        init_scale: float = 1.0,
    ) -> None:
        positive(depth=depth, width=width)
        numbers(output_scale=output_scale, init_scale=init_scale)
        if init not in INITS:
            raise UserError(f"model.init must be one of {', '.join(INITS)}; got {init!r}")
        sizes = (flat_size(data, "deep_linear"), *[width] * (depth - 1), data.num_outputs)
        keys = jax.random.split(key, depth)

        def matrix(inputs: int, outputs: int, key: PRNGKeyArray) -> Array:
            if init == "identity":
                return init_scale * jnp.eye(inputs, outputs, dtype=jnp.float32)
            return init_scale / math.sqrt(inputs) * jax.random.normal(key, (inputs, outputs), jnp.float32)

        self.matrices = tuple(matrix(a, b, k) for a, b, k in zip(sizes[:-1], sizes[1:], keys))
        self.output_scale = output_scale

    @property
    def units(self) -> tuple[Units, ...]:
        """Units between each two matrices."""
        return units_between(self.matrices, [None] * len(self.matrices))

    def __call__(self, x: Float[Array, "n ..."]) -> Float[Array, "n outputs"]:
        """Outputs of a batch; inputs of any shape are flattened."""
        h = x.reshape(len(x), -1)
        for matrix in self.matrices:
            h = h @ matrix
        return self.output_scale * h
