"""Hidden units: which weights each of them reads and which read it, so that units can change places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped


class Units(NamedTuple):
    """One hidden layer, unit by unit.

    Exchanging two units, their rows of both arrays, leaves the function of the network as it is.

    Parameters
    ----------
    incoming
        Weights that a unit is computed with, its bias included, shape (units, inputs).
    outgoing
        Weights that read a unit, shape (units, groups, outputs): a group is an offset of a convolution, or a pixel
        where images were flattened; one group otherwise.
    """

    incoming: Shaped[np.ndarray, "units inputs"]
    outgoing: Shaped[np.ndarray, "units groups outputs"]


def units_between(layers: Sequence[Any], biases: Sequence[Any]) -> tuple[Units, ...]:
    """Hidden units of a chain of matrices that act from the right.

    Parameters
    ----------
    layers
        The matrices, shape (inputs, outputs); the outputs of each are units, which the next reads once per group of its
        rows, innermost.
    biases
        Of each matrix, shape (outputs,); None where it has none.
    """
    found = []
    for weight, bias, after in zip(layers, biases, layers[1:]):
        units = weight.shape[1]
        incoming = weight.T if bias is None else np.concatenate([weight, bias[None]]).T
        found.append(
            Units(
                np.asarray(incoming), np.swapaxes(np.asarray(after).reshape(-1, units, after.shape[1]), 0, 1)
            )
        )
    return tuple(found)
