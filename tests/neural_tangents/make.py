"""Kernels of the library neural-tangents, for tests: it stops at JAX 0.5, so that its numbers are kept in a file.

python3 -m venv nt && nt/bin/pip install jax==0.5.3 jaxlib==0.5.3 frozendict absl-py
nt/bin/pip install --no-deps neural-tangents==0.6.5
nt/bin/python tests/neural_tangents/make.py
"""

import json
import sys
from pathlib import Path
from unittest import mock

import jax
import numpy as np

# It imports a part of it that is for TensorFlow, of which nothing is used here.
sys.modules["neural_tangents.experimental"] = mock.MagicMock()

from neural_tangents import stax  # noqa: E402

jax.config.update("jax_enable_x64", True)

W_STD, B_STD = 1.3, 0.4
ACTIVATIONS = {"relu": stax.Relu, "erf": stax.Erf, "gelu": stax.Gelu}
HERE = Path(__file__).parent


def inputs(*shape):
    """Numbers that look random and are the same everywhere."""
    return np.sin(np.arange(np.prod(shape), dtype=float) ** 2).reshape(shape)


def dense():
    return stax.Dense(512, W_STD, B_STD)


def perceptron(activation, depth):
    layers = [dense()]
    for _ in range(depth - 1):
        layers += [ACTIVATIONS[activation](), dense()]
    return stax.serial(*layers)


def convolutional(activation, convolutions, readout):
    layers = []
    for _ in range(convolutions):
        layers += [
            stax.Conv(512, (3, 3), padding="SAME", W_std=W_STD, b_std=B_STD),
            ACTIVATIONS[activation](),
        ]
    return stax.serial(*layers, {"gap": stax.GlobalAvgPool, "flatten": stax.Flatten}[readout](), dense())


def upper(network, x):
    kernels = network[2](x, None, ("nngp", "ntk"))
    return {
        kind: np.asarray(getattr(kernels, kind))[np.triu_indices(len(x))].tolist() for kind in ("nngp", "ntk")
    }


def main():
    vectors, images = inputs(5, 7), inputs(5, 6, 6, 3)
    found = {"W_std": W_STD, "b_std": B_STD, "vectors": list(vectors.shape), "images": list(images.shape)}
    for activation in ACTIVATIONS:
        found[f"{activation} dense 4"] = upper(perceptron(activation, 4), vectors)
        for convolutions in (1, 2, 3):
            for readout in ("gap", "flatten"):
                network = convolutional(activation, convolutions, readout)
                found[f"{activation} {readout} {convolutions + 1}"] = upper(network, images)
    (HERE / "kernels.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
