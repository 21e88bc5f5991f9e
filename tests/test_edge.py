"""Edge flow against closed forms; beside rod flow it is in test_rod.py."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import by_hand

from cflow_cli.flows.edge import Swing
from cflow_cli.flows.options import Edge


def test_edge_flow_on_a_quadratic():
    """r grows as e^{(ηS − 2)t}, u turns to the top eigenvector, the centre decays as gradient flow does."""
    lr, values, substeps = 0.1, np.array([22.0, 8.0, 2.0]), 16
    direction = np.array([0.6, 0.8, 0.0])
    steps, state = by_hand(
        Edge(substeps),
        optax.sgd(lr),
        lambda w: jnp.sum(jnp.asarray(values) * w**2) / 2,
        jnp.asarray([0.0, 0.0, 1.0]),
        memory=Swing(jnp.asarray(direction), jnp.asarray(0.5)),
    )
    first = steps(state, 1)
    rate = lr * values @ direction**2 - 2
    np.testing.assert_allclose(first.memory.amplitude, 0.5 * np.exp(rate / substeps), rtol=1e-12)
    end = steps(state, 20 * substeps)
    np.testing.assert_allclose(np.abs(end.memory.direction), [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(end.weights[2], (1 - lr * 2 / substeps) ** (20 * substeps), rtol=1e-9)
    later = steps(end, substeps)
    np.testing.assert_allclose(later.memory.amplitude / end.memory.amplitude, np.exp(0.2), rtol=1e-9)


def test_options_are_checked():
    with pytest.raises(ValueError, match="floor"):
        Edge(4, 0.0)
