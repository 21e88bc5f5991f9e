"""What of a network remains when its layers become infinitely wide: the variances and the shares of its layers."""

from __future__ import annotations

from dataclasses import dataclass

# Below so many inputs, a sum of uniform weights is visibly not Gaussian.
_FEW_INPUTS = 16


@dataclass(frozen=True)
class LayerLimit:
    """One linear layer, z = W h + b, in the limit: Gaussian outputs, and what its weights add to the tangent kernel.

    With F the mean of h·h′ over units, the outputs have the covariance ``weight`` F + ``bias``, and the layer's
    own weights and biases add ``weight_tangent`` F + ``bias_tangent`` to the tangent kernel.

    Parameters
    ----------
    weight
        fan_in times the variance of a weight, with its fixed factor.
    bias
        Variance of a bias, with its fixed factor.
    weight_tangent
        fan_in times the square of the fixed factor on weights.
    bias_tangent
        Square of the fixed factor on biases.
    """

    weight: float
    bias: float
    weight_tangent: float
    bias_tangent: float

    @classmethod
    def standard(cls, fan_in: int, *, bias: bool = True, scale: float = 1.0) -> LayerLimit:
        """Weights and biases uniform in ±scale/√fan_in, whose variance is a third of the square of that."""
        variance = scale**2 / 3
        return cls(variance, variance / fan_in * bias, float(fan_in), float(bias))

    @classmethod
    def ntk(cls, sigma_w: float, sigma_b: float, *, bias: bool = True, scale: float = 1.0) -> LayerLimit:
        """Weights and biases N(0, scale²), with factors σ_w/√fan_in and σ_b in the forward pass."""
        tangent = sigma_w**2, sigma_b**2 * bias
        return cls(tangent[0] * scale**2, tangent[1] * scale**2, *tangent)


@dataclass(frozen=True)
class Limit:
    """A network with one activation between its linear layers, with infinitely many units in each.

    Parameters
    ----------
    activation
        Name in ``cflow_cli.models.activations.ACTIVATIONS``.
    hidden
        The layers before the activations.
    readouts
        What output layers can be on: ``dense`` for vectors; for images ``gap``, the mean over pixels, and ``flatten``,
        all pixels.
    heads
        Of each readout, the output layers of the networks with 0, 1, …, ``len(hidden)`` hidden layers.
    readout
        Which one the network itself has.
    convolution
        Side of the window of hidden layers, zero-padded; None for dense ones.
    scale
        Fixed factor on the outputs.
    few_inputs
        How many inputs the first layer has, where they are too few for its uniform weights to give Gaussian outputs.
    """

    activation: str
    hidden: tuple[LayerLimit, ...]
    readouts: tuple[str, ...]
    heads: tuple[tuple[LayerLimit, ...], ...]
    readout: str
    convolution: int | None = None
    scale: float = 1.0
    few_inputs: int | None = None

    @property
    def depth(self) -> int:
        """Number of linear layers."""
        return len(self.hidden) + 1

    def head(self, readout: str, hidden: int) -> LayerLimit:
        """The output layer of the network with some readout and number of hidden layers."""
        return self.heads[self.readouts.index(readout)][hidden]


def few_inputs(fan_in: int, parametrisation: str) -> int | None:
    """The number of inputs of a first layer with uniform weights, where it is small."""
    return fan_in if parametrisation == "standard" and fan_in < _FEW_INPUTS else None
