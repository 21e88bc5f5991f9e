"""Small losses that several tests take to the edge of stability."""

import jax.numpy as jnp
import numpy as np


def valley(a, b, c):
    """L = ½(a + b y)x² − c y: the sharpness a + b y rises at the rate ηbc until it meets 2/η.

    There the average of S stays at 2/η, with a variance σ² = 2⟨−∇L, ∇S⟩/‖∇S‖² = 2c/b of x.
    """
    return lambda w: 0.5 * (a + b * w[1]) * w[0] ** 2 - c * w[1]


def network(w):
    """Loss of a 4-6-6-2 tanh network on fixed data, w of length 86, with several critical directions at lr 1."""
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.standard_normal((12, m)), w.dtype) for m in (4, 2))
    h = jnp.tanh(x @ w[:24].reshape(4, 6) + w[24:30])
    h = jnp.tanh(h @ w[30:66].reshape(6, 6) + w[66:72])
    return 0.5 * jnp.mean(jnp.sum((h @ w[72:84].reshape(6, 2) + w[84:86] - y) ** 2, axis=1))


def start(scale=0.5):
    """Weights for the network."""
    return jnp.asarray(scale * np.random.default_rng(3).standard_normal(86))


def columns(result, process, *names):
    """Columns of the metrics of one process."""
    rows = result.metrics[result.metrics.process == process]
    return [rows[name].to_numpy() for name in names]
