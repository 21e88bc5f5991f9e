"""The stationary flow of RMSProp against its conditions, and what it measures along the central flow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import network, start

from cflow_cli import Problem, simulate
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.flows.base import FlowState
from cflow_cli.flows.options import Stationary
from cflow_cli.flows.stationary import LearningRate
from cflow_cli.measurements.stationary_preconditioner import StationaryPreconditioner
from cflow_cli.optimizers import UpdateMap

LR = 0.02
RMSPROP = optax.rmsprop(LR, decay=0.95, eps_in_sqrt=False, bias_correction=True)


def test_at_the_stationary_preconditioner_the_second_moment_is_at_rest():
    """ν̄ = (ηP̄)² is the mean square of the gradient, ∇L² + diag(HΣH), and S_eff is 2."""
    w = start()
    # The rate of the step to come counts, not that of the step before.
    rate = optax.piecewise_constant_schedule(LR / 2, {1: 2.0})
    optimizer = optax.rmsprop(rate, decay=0.95, eps_in_sqrt=False, bias_correction=True)
    problem, update = Problem.from_function(network, w), UpdateMap.of(optimizer, w)
    stepper = Stationary(rank=8, tolerance=1e-7).stepper(update, EigsOptions(tolerance=1e-6))
    state = FlowState(
        w, update.init(w), jnp.eye(86)[:8], jnp.zeros((8, 8)), jnp.asarray(True), stepper.start(w, 8)
    )
    state = state._replace(optimizer=update(state.optimizer, problem.gradient(w), w)[0])

    @jax.jit
    def measured(state):
        moved, info = stepper(problem, state, state.optimizer, 200)
        mean_square = info.linear.gradient**2 + info.oscillation.gradient_variance
        predicted = info.oscillation.loss - info.linear.loss, jnp.trace(info.oscillation.x)
        return moved.weights, info.preconditioner, info.pairs.values, mean_square, predicted

    moved, d, values, mean_square, (rise, trace) = measured(state)
    np.testing.assert_allclose(values[0], 2, rtol=1e-6)
    np.testing.assert_allclose(mean_square, (LR / d) ** 2, atol=1e-4 * float(mean_square.max()))
    # X, in the basis of the tracked directions, is the covariance of that oscillation: ½⟨H, Σ⟩ = tr X at λ = 2.
    np.testing.assert_allclose(rise, trace, rtol=1e-4)
    assert network(moved) < network(w)


def test_the_learning_rate_is_read_off_the_map():
    w, schedule = start(), optax.linear_schedule(0.01, 0.03, 40)
    for corrected in (False, True):
        update = UpdateMap.of(
            optax.rmsprop(schedule, decay=0.9, eps_in_sqrt=False, bias_correction=corrected), w
        )
        rate, state = LearningRate.of(update), update.init(w)
        for t in range(3):
            state, _ = update(state, jnp.ones_like(w), w)
            np.testing.assert_allclose(rate(state), schedule(t), rtol=1e-6)


@pytest.mark.slow
def test_the_stationary_flow_and_the_measurements_along_the_central_flow():
    result = simulate(
        Problem.from_function(network, start()),
        RMSPROP,
        processes=["discrete", "central", Stationary(rank=8)],
        measurements=(StationaryPreconditioner(every=30),),
        steps=95,
        kick=1e-4,
    )
    metrics = result.metrics.set_index("step")
    flow = metrics[metrics.process == "stationary"]
    np.testing.assert_allclose(flow.effective_sharpness, 2, atol=0.01)
    assert (flow.stationary_gap <= 1e-3).all()
    assert flow.loss.iloc[-1] < 0.5 * flow.loss.iloc[0]
    central = metrics[metrics.process == "central"]
    there = central[central.nu_cosine.notna()]
    assert list(there.index) == [5, 35, 65]
    assert (there.stationary_gap <= 1e-3).all()
    assert there.nu_cosine.iloc[-1] > there.nu_cosine.iloc[0]
    assert there.nu_cosine.iloc[-1] > 0.9
    # The least trace allows the longest steps of all.
    speeds = there[["speed_trace", "speed_stationary", "speed_sharpness", "speed"]]
    assert (speeds.idxmax(axis=1) == "speed_trace").all()
    np.testing.assert_allclose(speeds.speed.iloc[-1], speeds.speed_stationary.iloc[-1], rtol=0.5)


@pytest.mark.parametrize(
    ("build", "words"),
    [(lambda: Stationary(rank=0), "rank"), (lambda: Stationary(tolerance=0.0), "tolerance")],
)
def test_options_are_checked(build, words):
    with pytest.raises(ValueError, match=words):
        build()
