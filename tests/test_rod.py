"""Rod flow against closed forms and the real optimizer."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import RMSPROP, by_hand, columns, network, start, valley

from cflow_cli import Problem, simulate
from cflow_cli.flows.options import Rod
from cflow_cli.measurements.coordinates import Coordinates


def test_a_rod_on_a_quadratic_grows_as_in_the_closed_form():
    """dΣ/dt = (½η²S² − 2)Σ: growth exactly where S > 2/η [Regis & Chewi]."""
    sharpness, substeps = 20.0, 4
    for lr in (0.075, 0.095, 0.105, 0.125):
        steps, state = by_hand(
            Rod(substeps),
            optax.sgd(lr),
            lambda w: sharpness / 2 * w @ w,
            jnp.zeros(1),
            memory=(jnp.ones(1),),
        )
        variance = float(steps(state, 20).memory[0][0] ** 2)
        rate = 0.5 * lr**2 * sharpness**2 - 2
        np.testing.assert_allclose(variance, (1 + rate / substeps) ** 20, rtol=1e-10)


def test_a_rod_on_a_quartic_comes_to_rest_at_the_closed_form():
    """On L = (S/2)w² − (Q/4)w⁴ the variance settles at Σ* = S/Q − 2/(ηQ) [Regis & Chewi]."""
    lr, s, q = 0.1, 24.0, 3.0
    steps, state = by_hand(
        Rod(),
        optax.sgd(lr),
        lambda w: jnp.sum(s / 2 * w**2 - q / 4 * w**4),
        jnp.zeros(1),
        memory=(jnp.full(1, 1e-3),),
    )
    end = steps(state, 400)
    np.testing.assert_allclose(end.memory[0] ** 2, s / q - 2 / (lr * q), rtol=1e-9)
    np.testing.assert_allclose(end.weights, 0, atol=1e-12)


def test_each_direction_of_a_rod_grows_at_its_own_rate():
    """As dt → 0: rate ½λλ̄ − ¼λ̄² − 1 for the part with eigenvalue λ, λ̄ that of the rod."""
    values, rod = np.array([2.2, 1.9, 0.3]), np.array([0.8, 0.5, 0.1])
    substeps = 4096
    steps, state = by_hand(
        Rod(substeps),
        optax.sgd(1.0),
        lambda w: jnp.sum(jnp.asarray(values) * w**2) / 2,
        jnp.zeros(3),
        memory=(jnp.asarray(rod),),
    )
    grown = np.abs(np.asarray(steps(state, 1).memory[0]))
    mean = values @ rod**2 / (rod @ rod)
    rates = 0.5 * values * mean - 0.25 * mean**2 - 1
    np.testing.assert_allclose((grown / rod - 1) * substeps, rates, rtol=2e-3)


@pytest.mark.parametrize(
    ("optimizer", "edge"),
    [
        (lambda lr: optax.sgd(lr, momentum=0.9), 3.8),
        (lambda lr: optax.sgd(lr, momentum=0.9, nesterov=True), 2 * 1.9 / 2.8),
        (lambda lr: optax.chain(optax.ema(0.9, debias=False), optax.scale(-lr)), 2 * 1.9 / 0.1),
    ],
    ids=["momentum", "nesterov", "ema"],
)
def test_rods_of_momentum_grow_above_the_edge_and_shrink_below(optimizer, edge):
    for factor in (0.97, 1.03):
        steps, state = by_hand(
            Rod(),
            optimizer(factor * edge / 20),
            lambda w: 20 / 2 * w @ w,
            jnp.zeros(1),
            memory=(jnp.ones(1), jnp.zeros(1)),
        )
        # The first steps only bring the momentum into its place beside the weights.
        settled = steps(state, 200)
        later = steps(settled, 40)
        assert (abs(float(later.memory[0][0])) > abs(float(settled.memory[0][0]))) == (factor > 1)


@pytest.mark.parametrize("flow", ["rod", "edge"])
def test_sharpness_and_variance_circle_around_those_of_the_central_flow(flow):
    # Started just below the edge, S = 2/η.
    lr, b, c = 0.05, 4.0, 1.0
    problem = Problem.from_function(valley(38.0, b, c), jnp.asarray([0.3, 0.0]))
    result = simulate(
        problem, optax.sgd(lr), processes=[flow], steps=600, measurements=(Coordinates(watch=[0]),)
    )
    sharpness, trace = columns(result, flow, "effective_sharpness", "x_trace")
    np.testing.assert_allclose(sharpness.mean(), 2, atol=0.05)
    np.testing.assert_allclose(lr * trace[100:].mean(), 2 * c / b, rtol=0.1)


@pytest.mark.parametrize(
    ("optimizer", "flows"),
    [(optax.sgd(0.6), ["rod", "edge"]), pytest.param(RMSPROP, ["rod"], marks=pytest.mark.slow)],
    ids=["gd", "rmsprop"],
)
def test_at_the_edge_the_flows_stay_nearer_to_the_optimizer_than_the_stable_flow(optimizer, flows):
    result = simulate(
        Problem.from_function(network, start()),
        optimizer,
        processes=["stable", *flows],
        steps=60,
        kick=1e-4,
    )
    (stable,) = columns(result, "stable", "distance_to_discrete")
    for flow in flows:
        distance, sharpness, loss, predicted = columns(
            result, flow, "distance_to_discrete", "effective_sharpness", "loss", "predicted_loss"
        )
        assert distance[-1] < 0.8 * stable[-1]
        assert 1.8 < sharpness[-30:].mean() < 2.6
        assert (predicted[-20:] > loss[-20:]).all()


def test_options_are_checked():
    with pytest.raises(ValueError, match="at least 2"):
        Rod(1)
