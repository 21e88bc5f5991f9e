"""The optimizer beside the flows is the plain optax loop."""

import jax
import numpy as np
import optax
import pytest
from toys import columns, network, start

from cflow_cli import Problem, simulate

pytestmark = pytest.mark.optimised


OPTIMIZERS = {
    "gd": optax.sgd(0.5),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.01),
    "adamw": optax.adamw(0.01, weight_decay=0.03),
    "nadam": optax.nadam(0.01),
    "adabelief": optax.adabelief(0.01),
    "adagrad": optax.adagrad(0.03),
    "rmsprop": optax.rmsprop(optax.cosine_decay_schedule(0.01, 40), decay=0.9, eps_in_sqrt=False),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_discrete_equals_a_plain_optax_loop_to_the_bit(name):
    optimizer = OPTIMIZERS[name]
    w0 = start()
    result = simulate(
        Problem.from_function(network, w0), optimizer, processes=["discrete"], steps=40, chunk=15, kick=0.0
    )

    @jax.jit
    def step(w, state):
        updates, state = optimizer.update(jax.grad(network)(w), state, w)
        return optax.apply_updates(w, updates), state

    w, state, loss = w0, optimizer.init(w0), jax.jit(network)
    losses = []
    for _ in range(40):
        losses.append(float(loss(w)))
        w, state = step(w, state)
    np.testing.assert_array_equal(result.weights["discrete"], w)
    np.testing.assert_allclose(columns(result, "discrete", "loss")[0], losses, rtol=1e-12)
