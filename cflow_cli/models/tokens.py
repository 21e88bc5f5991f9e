"""Embedding of tokens, and the check that data are tokens."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cflow_cli.datasets.dataset import Dataset
from cflow_cli.errors import UserError


class Embedding(eqx.Module):
    """One trainable vector per token, initialised N(0, deviation²).

    Looked up by a product with one-hot vectors: vocabularies are small here, and the derivatives of a product
    are products, where those of indexing are scatters.
    """

    weight: Float[Array, "vocabulary width"]

    def __init__(self, vocabulary: int, width: int, key: PRNGKeyArray, deviation: float) -> None:
        self.weight = deviation * jax.random.normal(key, (vocabulary, width), jnp.float32)

    def __call__(self, tokens: Int[Array, "n t"]) -> Float[Array, "n t width"]:
        """Vectors of a batch of sequences."""
        return jax.nn.one_hot(tokens, len(self.weight), dtype=self.weight.dtype) @ self.weight


def vocabulary_of(data: Dataset, model: str) -> int:
    """Number of tokens of the data.

    Raises
    ------
    UserError
        If the data are not sequences of tokens.
    """
    if data.task != "tokens" or data.vocabulary is None:
        other = "model=matrix_factorisation" if data.task == "entries" else "model=mlp"
        raise UserError(
            f"model {model} works on sequences of tokens, but data {data.name} is a {data.task} task with "
            f"inputs of shape {data.input_shape}: choose data=sorting, data=copying or data=text, or {other}"
        )
    return data.vocabulary
