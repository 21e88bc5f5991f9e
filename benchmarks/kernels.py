"""What a convolutional kernel with pooling costs: CPU time per pair of images, pair of pixels and layer.

python -m benchmarks.kernels
"""

from __future__ import annotations

import time

import jax.numpy as jnp
import numpy as np

from cflow_cli.kernels.recursion import InfiniteKernel
from cflow_cli.models.limit import LayerLimit, Limit

PAIRS, SIDE, DEPTH = 2048, 8, 4


def nanoseconds(activation: str) -> float:
    """CPU nanoseconds per pair, P² and convolution, both kernels and readouts; without compiling."""
    layer = LayerLimit.ntk(1.4, 0.1)
    limit = Limit(activation, (layer,) * (DEPTH - 1), ("gap", "flatten"), ((layer,) * DEPTH,) * 2, "gap", 3)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((64, SIDE, SIDE, 3)), jnp.float32)
    kernel = InfiniteKernel(limit, x, ("gap", "flatten"))
    i, j = (jnp.asarray(numbers) for numbers in np.random.default_rng(1).integers(64, size=(2, PAIRS)))
    kernel(i, j).block_until_ready()
    began = time.process_time()
    kernel(i, j).block_until_ready()
    return (time.process_time() - began) / (PAIRS * SIDE**4 * (DEPTH - 1)) * 1e9


def main() -> None:
    """Print the cost of each activation with a closed form."""
    for activation in ("relu", "erf", "gelu"):
        print(f"{activation}: {nanoseconds(activation):.1f} ns per pair, P² and layer")


if __name__ == "__main__":
    main()
