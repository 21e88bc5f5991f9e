"""The stationary preconditioner of RMSProp against an interior-point solver, and its flow against its conditions."""

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
from toys import network, start

from cflow_cli import Problem, simulate
from cflow_cli.errors import UserError
from cflow_cli.flows import preconditioner
from cflow_cli.flows.base import FlowState
from cflow_cli.flows.stationary import LearningRate
from cflow_cli.optimizers import UpdateMap
from cflow_cli.options import Central, EigsOptions, Stationary

LR = 0.02
RMSPROP = optax.rmsprop(LR, decay=0.95, eps_in_sqrt=False, bias_correction=True)


def interior_point(h, c):
    """min Σp + Σt subject to t p ≥ c² (second-order cones) and 2 diag(p) − H ⪰ 0, x = (p, t)."""
    n = len(c)
    eye, zero = np.eye(n), np.zeros((n, n))
    cones = np.stack([np.hstack([-eye, -eye]), np.hstack([zero, zero]), np.hstack([-eye, eye])], axis=1)
    sizes = np.stack([0 * c, 2 * c, 0 * c], axis=1)
    row, column = np.triu_indices(n)
    order = np.lexsort((row, column))
    row, column = row[order], column[order]
    psd = np.where((row == column)[:, None], -2 * np.hstack([eye, zero])[row], 0)
    right = -h[row, column] * np.where(row == column, 1, np.sqrt(2))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    for name in ("tol_gap_abs", "tol_gap_rel", "tol_feas"):
        setattr(settings, name, 1e-11)
    solution = clarabel.DefaultSolver(
        scipy.sparse.csc_matrix((2 * n, 2 * n)),
        np.ones(2 * n),
        scipy.sparse.csc_matrix(np.vstack([cones.reshape(3 * n, 2 * n), psd])),
        np.concatenate([sizes.ravel(), right]),
        [*[clarabel.SecondOrderConeT(3)] * n, clarabel.PSDTriangleConeT(n)],
        settings,
    ).solve()
    return np.asarray(solution.x[:n])


def test_the_program_is_solved_as_by_an_interior_point_method():
    """With and without the second term, entries of c and of H over several decades."""
    n, rng = 12, np.random.default_rng(0)
    q, scale = rng.standard_normal((n, n)), np.exp(rng.uniform(-2, 2, n))
    h = q @ np.diag([50, 40, 30, 20, *np.linspace(5, -3, n - 4)]) @ q.T / n * scale[:, None] * scale
    guess = preconditioner.start(jax.random.PRNGKey(0), 5, jnp.abs(jnp.diag(h)))
    solve = jax.jit(lambda c: preconditioner.solve(lambda rows: rows @ h, c, guess, 1e-8)[0])
    for c in (np.exp(rng.uniform(-4, 1, n)), np.zeros(n)):
        found = solve(jnp.asarray(c))
        assert found.converged
        np.testing.assert_allclose(found.p, interior_point(h, c), rtol=1e-4)
        assert np.linalg.eigvalsh(2 * np.diag(found.p) - h)[0] > -1e-6 * found.p.max()


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
        moved, found = stepper(problem, state, state.optimizer, 200)
        mean_square = found.linear.gradient**2 + found.oscillation.gradient_variance
        predicted = found.oscillation.loss - found.linear.loss, jnp.trace(found.oscillation.x)
        return moved.weights, found.preconditioner, found.pairs.values, mean_square, predicted

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
        processes=["discrete", Central(stationary_every=30), Stationary(rank=8)],
        steps=95,
        kick=1e-4,
        eigs=EigsOptions(hessian_every=0),
        eval_every=100,
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


def test_only_rmsprop_has_a_stationary_preconditioner():
    for optimizer in (optax.adam(0.01), optax.sgd(0.1), optax.adagrad(0.1)):
        for process in (Stationary(), Central(stationary_every=5)):
            with pytest.raises(UserError, match="known for RMSProp"):
                simulate(Problem.from_function(network, start()), optimizer, processes=[process], steps=9)


@pytest.mark.parametrize(
    ("build", "words"),
    [(lambda: Stationary(rank=0), "rank"), (lambda: Stationary(tolerance=0.0), "tolerance")],
)
def test_options_are_checked(build, words):
    with pytest.raises(ValueError, match=words):
        build()
