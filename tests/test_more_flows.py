"""The ablated flow, rod flow and edge flow against closed forms and the real optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import columns, network, start, valley

from cflow_cli import Problem, simulate
from cflow_cli.errors import UserError
from cflow_cli.flows.base import FlowState
from cflow_cli.flows.edge import Swing
from cflow_cli.optimizers import UpdateMap
from cflow_cli.options import Edge, EigsOptions, Rod

RMSPROP = optax.rmsprop(0.02, decay=0.95, eps_in_sqrt=False)


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


# --- rod -------------------------------------------------------------------------------------------


def stepper_and_state(spec, optimizer, loss, w, **memory):
    """A flow's stepper and its state at w, to be stepped by hand."""
    problem = Problem.from_function(loss, w)
    update = UpdateMap.of(optimizer, w)
    stepper = spec.stepper(update, EigsOptions())
    rows = jnp.eye(len(w))
    state = FlowState(
        w, update.init(w), rows, jnp.zeros_like(rows), jnp.asarray(True), stepper.start(w, len(rows))
    )._replace(**memory)

    @jax.jit
    def steps(state, count):
        def body(_, state):
            return stepper(problem, state, state.optimizer, 10)[0]

        return jax.lax.fori_loop(0, count, body, state)

    return steps, state


def test_a_rod_on_a_quadratic_grows_as_in_the_closed_form():
    """dΣ/dt = (½η²S² − 2)Σ: growth exactly where S > 2/η [Regis & Chewi]."""
    lr, substeps = 0.1, 4
    for sharpness in (15.0, 19.0, 21.0, 25.0):
        steps, state = stepper_and_state(
            Rod(substeps),
            optax.sgd(lr),
            lambda w, s=sharpness: s / 2 * w @ w,
            jnp.zeros(1),
            memory=(jnp.ones(1),),
        )
        variance = float(steps(state, 20).memory[0][0] ** 2)
        rate = 0.5 * lr**2 * sharpness**2 - 2
        np.testing.assert_allclose(variance, (1 + rate / substeps) ** 20, rtol=1e-10)


def test_a_rod_on_a_quartic_comes_to_rest_at_the_closed_form():
    """On L = (S/2)w² − (Q/4)w⁴ the variance settles at Σ* = S/Q − 2/(ηQ) [Regis & Chewi]."""
    lr, s, q = 0.1, 24.0, 3.0
    steps, state = stepper_and_state(
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
    steps, state = stepper_and_state(
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
        (optax.sgd(0.1, momentum=0.9), 38.0),
        (optax.sgd(0.1, momentum=0.9, nesterov=True), 20 * 1.9 / 2.8),
        (optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.01)), 200 * 1.9 / 0.1),
    ],
    ids=["momentum", "nesterov", "ema"],
)
def test_rods_of_momentum_grow_above_the_edge_and_shrink_below(optimizer, edge):
    for factor in (0.97, 1.03):
        steps, state = stepper_and_state(
            Rod(),
            optimizer,
            lambda w, s=factor * edge: s / 2 * w @ w,
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
    result = simulate(problem, optax.sgd(lr), processes=[flow], steps=600, eval_every=600, coordinates=[0])
    sharpness, trace = columns(result, flow, "effective_sharpness", "sigma_trace")
    np.testing.assert_allclose(sharpness.mean(), 2, atol=0.05)
    np.testing.assert_allclose(lr * trace[100:].mean(), 2 * c / b, rtol=0.1)


@pytest.mark.parametrize(
    ("optimizer", "flows"),
    [(optax.sgd(0.6), ["rod", "edge"]), (RMSPROP, ["rod"])],
    ids=["gd", "rmsprop"],
)
def test_at_the_edge_the_flows_stay_nearer_to_the_optimizer_than_the_stable_flow(optimizer, flows):
    result = simulate(
        Problem.from_function(network, start()),
        optimizer,
        processes=["discrete", "stable", *flows],
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


# --- edge ------------------------------------------------------------------------------------------


def test_edge_flow_on_a_quadratic():
    """r grows as e^{(ηS − 2)t}, u turns to the top eigenvector, the centre decays as gradient flow does."""
    lr, values, substeps = 0.1, np.array([22.0, 8.0, 2.0]), 16
    direction = np.array([0.6, 0.8, 0.0])
    steps, state = stepper_and_state(
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


def test_edge_flow_is_for_gradient_descent():
    with pytest.raises(UserError, match="gradient descent only"):
        simulate(Problem.from_function(network, start()), optax.adam(0.01), processes=["edge"], steps=9)


@pytest.mark.parametrize(
    ("build", "words"), [(lambda: Rod(1), "at least 2"), (lambda: Edge(4, 0.0), "floor")]
)
def test_options_are_checked(build, words):
    with pytest.raises(ValueError, match=words):
        build()


# --- Yogi ------------------------------------------------------------------------------------------


def test_the_central_flow_refuses_a_second_moment_that_shrinks_as_it_oscillates():
    problem = Problem.from_function(network, start())
    with pytest.raises(UserError, match=r"central flow .* shrinks its second moment"):
        simulate(problem, optax.yogi(0.01), processes=["central"], steps=9)
    simulate(problem, optax.yogi(0.01), processes=["stable", "rod"], steps=9)
    for optimizer in (
        optax.adam(0.01),
        optax.amsgrad(0.01),
        optax.adabelief(0.01),
        optax.adagrad(0.01),
        RMSPROP,
    ):
        assert UpdateMap.of(optimizer, start()).stiffens
