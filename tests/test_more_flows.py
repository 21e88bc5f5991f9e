"""The ablated flow, rod flow and edge flow against closed forms and the real optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cflow_cli import Problem, simulate
from cflow_cli.errors import UserError

RMSPROP = optax.rmsprop(0.02, decay=0.95, eps_in_sqrt=False)


def network(w):
    """Loss of a 4-6-6-2 tanh network on fixed data, w of length 86."""
    rng = np.random.default_rng(0)
    x, y = (
        jnp.asarray(rng.standard_normal((12, 4)), w.dtype),
        jnp.asarray(rng.standard_normal((12, 2)), w.dtype),
    )
    h = jnp.tanh(x @ w[:24].reshape(4, 6) + w[24:30])
    h = jnp.tanh(h @ w[30:66].reshape(6, 6) + w[66:72])
    return 0.5 * jnp.mean(jnp.sum((h @ w[72:84].reshape(6, 2) + w[84:86] - y) ** 2, axis=1))


def start(scale=0.5):
    return jnp.asarray(scale * np.random.default_rng(3).standard_normal(86))


def columns(result, process, *names):
    rows = result.metrics[result.metrics.process == process]
    return [rows[name].to_numpy() for name in names]


# --- ablated ---------------------------------------------------------------------------------------


def test_the_ablated_flow_is_held_at_two_by_the_second_moment_alone():
    result = simulate(
        Problem.from_function(network, start()), RMSPROP, processes=("central", "ablated"), steps=120
    )
    raw = {}
    for name in ("central", "ablated"):
        critical, effective, raw[name] = columns(
            result, name, "num_critical", "effective_sharpness", "sharpness"
        )
        assert critical[-40:].min() >= 1
        np.testing.assert_allclose(effective[-40:], 2, atol=0.03)
    # Without the penalty nothing turns the flow away from sharper regions.
    raw = {name: values[~np.isnan(values)][-1] for name, values in raw.items()}
    assert raw["ablated"] > raw["central"]


def test_the_ablated_flow_needs_second_moments():
    with pytest.raises(UserError, match="without second moments"):
        simulate(Problem.from_function(network, start()), optax.sgd(0.3), processes=["ablated"], steps=3)
