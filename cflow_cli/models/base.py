"""What all models share: the abstract class, smoothness, and linear layers."""

from __future__ import annotations

import abc
import math
import operator
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from cflow_cli.datasets.dataset import Dataset
from cflow_cli.errors import UserError
from cflow_cli.models.activations import get_activation
from cflow_cli.models.limit import LayerLimit, Limit
from cflow_cli.models.units import Units


class Model(eqx.Module):
    """A network that acts on a whole batch.

    Every array is a trainable parameter (float32 when built); everything else is static. There is no
    randomness after construction and no statistic of the batch, so the loss is a function of the weights.
    """

    @abc.abstractmethod
    def __call__(self, x: Shaped[Array, "n ..."]) -> Float[Array, "n ..."]:
        """Outputs ``(n, num_outputs)``, or ``(n, T, vocabulary)`` for tokens."""

    @property
    def roughness(self) -> str | None:
        """Why some derivative does not exist, as a phrase; None for a smooth model."""
        return None

    @property
    def units(self) -> tuple[Units, ...] | None:
        """Hidden units that can change places, layer by layer; None where no such permutation is known."""
        return None

    @property
    def limit(self) -> Limit | None:
        """The network that this one becomes when its layers are infinitely wide; None where that is not known here."""
        return None

    @property
    def smooth(self) -> bool:
        """Whether the loss has derivatives of every order in the weights."""
        return self.roughness is None

    @property
    def smoothness_warning(self) -> str | None:
        """One sentence for the user of a flow on a model that is not smooth, else None."""
        if self.roughness is None:
            return None
        return (
            f"{self.roughness}, so the third derivatives that the central flow uses miss what happens there "
            "and its predictions can be off; smooth layers (gelu, silu, tanh, softplus; average pooling) avoid this"
        )


class ActivatedModel(Model):
    """A model whose smoothness is that of its one activation."""

    activation: eqx.AbstractVar[str]

    @property
    def roughness(self) -> str | None:
        """What fails in the activation."""
        return get_activation(self.activation).roughness


class Linear(eqx.Module):
    """x @ weight + bias on the last axis.

    Initialised uniformly in ±scale/√fan_in, bias included: PyTorch's default, which the paper kept.
    """

    weight: Float[Array, "inputs outputs"]
    bias: Float[Array, " outputs"] | None

    def __init__(
        self, inputs: int, outputs: int, key: PRNGKeyArray, *, bias: bool = True, scale: float = 1.0
    ) -> None:
        weight_key, bias_key = jax.random.split(key)
        bound = scale / math.sqrt(inputs)
        self.weight = jax.random.uniform(weight_key, (inputs, outputs), jnp.float32, -bound, bound)
        self.bias = jax.random.uniform(bias_key, (outputs,), jnp.float32, -bound, bound) if bias else None

    def __call__(
        self, x: Float[Array, "... inputs"], product: Callable[[Array, Array], Array] = operator.matmul
    ) -> Float[Array, "... outputs"]:
        """Apply to every vector along the last axis, or what else ``product`` makes of an input and the matrix."""
        y = product(x, self.weight)
        return y if self.bias is None else y + self.bias

    def limit(self, fan_in: int, scale: float) -> LayerLimit:
        """What remains of such a layer with wide neighbours, for the ``scale`` that it was made with."""
        return LayerLimit.standard(fan_in, bias=self.bias is not None, scale=scale)


def flat_size(data: Dataset, model: str) -> int:
    """Numbers in one flattened input.

    Raises
    ------
    UserError
        If inputs are tokens or places in a matrix, whose numbers are names, not amounts.
    """
    if data.task == "entries":
        raise UserError(
            f"model {model} works on inputs, but data {data.name} is made of entries of one matrix: "
            "choose model=matrix_factorisation"
        )
    if data.task == "tokens":
        raise UserError(
            f"model {model} works on numbers, but data {data.name} is made of tokens: "
            "choose model=transformer, model=lstm or model=mamba"
        )
    return math.prod(data.input_shape)


def positive(**sizes: int | Sequence[int]) -> None:
    """Check that config values which size a model are positive integers.

    Raises
    ------
    UserError
        Naming the first that is not.
    """
    for name, value in sizes.items():
        values = value if isinstance(value, Sequence) else (value,)
        for item in values:
            if not isinstance(item, int) or isinstance(item, bool) or item < 1:
                raise UserError(f"model.{name} must be made of integers of at least 1, got {value!r}")


def numbers(**values: float) -> None:
    """Check that config values which scale something are finite numbers.

    Raises
    ------
    UserError
        Naming the first that is not.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"model.{name} must be a finite number, got {value!r}")
