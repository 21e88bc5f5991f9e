"""Flows against closed forms, the plain optimizer, and their own refinement."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import columns, network, start, valley

from cflow_cli import Problem, simulate
from cflow_cli.options import Central, EigsOptions, Stable

LR, A, B, C = 0.1, 12.0, 4.0, 1.0


def test_valley_follows_the_closed_form():
    """At the edge the sharpness is held at 2/η by a variance σ² = 2⟨−∇L, ∇S⟩/‖∇S‖² = 2c/b of x."""
    problem = Problem.from_function(valley(A, B, C), jnp.asarray([0.0, 0.0]))
    result = simulate(problem, optax.sgd(LR), processes=("central", "stable"), steps=80, coordinates=[0, 1])
    (s_eff,) = columns(result, "central", "effective_sharpness")
    (free,) = columns(result, "stable", "effective_sharpness")
    at_edge = int(np.argmax(s_eff > 2 - 1e-9))
    assert 18 <= at_edge <= 22  # (2/η − a)/(ηbc) = 20 steps
    np.testing.assert_allclose(s_eff[at_edge:], 2, atol=1e-9)
    np.testing.assert_allclose(free, LR * (A + B * LR * C * np.arange(80)), rtol=1e-9)
    trace, loss, predicted, grad = (
        a[at_edge + 1 :]
        for a in columns(result, "central", "sigma_trace", "loss", "predicted_loss", "predicted_grad_norm_sq")
    )
    variance = 2 * C / B
    # X is in the D⁻¹ norm: σ² = ηX. With y at rest the damped direction x alone moves, and does so by nothing.
    np.testing.assert_allclose(LR * trace, variance, rtol=1e-6)
    np.testing.assert_allclose(predicted - loss, 0.5 * (2 / LR) * variance, rtol=1e-6)
    np.testing.assert_allclose(grad, C**2 + (2 / LR) ** 2 * variance, rtol=1e-6)
    kinds = result.eigenvalues.query("process == 'central' and kind == 'predicted_grad_sq' and step == 60")
    np.testing.assert_allclose(kinds.sort_values("index").value, [(2 / LR) ** 2 * variance, C**2], rtol=1e-6)


def test_the_real_optimizer_oscillates_around_the_valley_as_predicted():
    """The time averages of loss and of x² over many cycles are those of the flow."""
    result = simulate(
        Problem.from_function(valley(A, B, C), jnp.asarray([1e-3, 0.0])),
        optax.sgd(0.05),
        processes=("discrete", "central"),
        steps=3000,
        eval_every=3000,
        kick=1e-2,
        coordinates=[0],
    )
    trace, predicted = columns(result, "central", "sigma_trace", "predicted_loss")
    (loss,) = columns(result, "discrete", "loss")
    late = slice(1500, None)
    # On this loss g_x = S x, and S = a + b y up to the small off-diagonal part of H.
    squares = result.eigenvalues.query("process == 'discrete' and kind == 'grad_sq'").value.to_numpy()
    np.testing.assert_allclose((squares / (2 / 0.05) ** 2)[late].mean(), 0.05 * trace[late].mean(), rtol=0.05)
    np.testing.assert_allclose(loss[late].mean(), predicted[late].mean(), atol=0.05 * abs(2 / 0.05 * C / B))


def test_without_critical_directions_the_flows_agree_to_the_bit_and_equal_the_optimizer():
    for optimizer in (optax.sgd(0.05, momentum=0.9), optax.adam(5e-4)):
        problem = Problem.from_function(network, start(scale=0.2))
        result = simulate(problem, optimizer, steps=25, warm_start=5)
        (most,) = columns(result, "central", "num_critical")
        assert most.max() == 0
        np.testing.assert_array_equal(result.weights["central"], result.weights["stable"])
        np.testing.assert_allclose(
            result.weights["central"], result.weights["discrete"], rtol=1e-12, atol=1e-14
        )


@pytest.mark.parametrize("name", ["gd", "momentum", "adam", "rmsprop"])
def test_discrete_equals_a_plain_optax_loop_to_the_bit(name):
    optimizer = {
        "gd": optax.sgd(0.5),
        "momentum": optax.sgd(0.1, momentum=0.9),
        "adam": optax.adam(0.01),
        "rmsprop": optax.rmsprop(optax.cosine_decay_schedule(0.01, 40), decay=0.9, eps_in_sqrt=False),
    }[name]
    w0 = start()
    result = simulate(
        Problem.from_function(network, w0), optimizer, processes=["discrete"], steps=40, chunk=15
    )

    @jax.jit
    def step(w, state):
        updates, state = optimizer.update(jax.grad(network)(w), state, w)
        return optax.apply_updates(w, updates), state

    w, state = w0, optimizer.init(w0)
    losses = []
    for _ in range(40):
        losses.append(float(network(w)))
        w, state = step(w, state)
    np.testing.assert_array_equal(result.weights["discrete"], w)
    np.testing.assert_allclose(columns(result, "discrete", "loss")[0], losses, rtol=1e-12)


def test_halving_dt_halves_the_error():
    """Order one in dt of both flows, through the edge of stability, by regression over step sizes."""
    problem = Problem.from_function(network, start())
    optimizer = optax.sgd(0.25)

    def ends(substeps):
        flows = [Central(substeps=substeps), Stable(substeps=substeps)]
        result = simulate(problem, optimizer, processes=flows, steps=30, eval_every=100)
        assert columns(result, "central", "num_critical")[0].max() >= 1
        return np.stack([result.weights["central"], result.weights["stable"]])

    sizes = np.array([2, 4, 8])
    values = {int(m): ends(int(m)) for m in sizes}
    reference = 2 * ends(32) - ends(16)
    for flow in range(2):
        errors = [np.linalg.norm(values[int(m)][flow] - reference[flow]) for m in sizes]
        slope = np.polyfit(np.log(1 / sizes), np.log(errors), 1)[0]
        assert 0.8 < slope < 1.4, (flow, slope, errors)


@pytest.mark.parametrize(
    "optimizer",
    [optax.sgd(0.6), optax.sgd(0.3, momentum=0.8), optax.rmsprop(0.02, decay=0.95, eps_in_sqrt=False)],
    ids=["gd", "momentum", "rmsprop"],
)
def test_the_central_flow_holds_every_eigenvalue_at_two(optimizer):
    """Compare with the dense spectrum at the end, not with what the flow tracked."""
    from cflow_cli.simulation import Simulation

    simulation = Simulation(
        Problem.from_function(network, start()), optimizer, processes=["central"], steps=120, warm_start=5
    )
    for chunk in simulation:
        if 5 < chunk.step < 120:
            at, state = chunk.step, simulation._runs["central"].state.flow
    d, _ = simulation.optimizer.linear_response(state.optimizer)
    root = np.broadcast_to(np.sqrt(np.asarray(d)), state.weights.shape)
    hessian = np.asarray(jax.hessian(network)(state.weights))
    values = np.linalg.eigvalsh(root[:, None] * hessian * root[None, :])[::-1]
    critical = columns(simulation.result(), "central", "num_critical")[0]
    assert critical.max() >= 1
    assert values[0] < 2.02
    tracked = chunk.eigenvalues
    there = (tracked["step"] == at) & (tracked["kind"] == "effective")
    # A Ritz value is as near to an eigenvalue as the square of its residual, which may be 0.03 λ.
    np.testing.assert_allclose(tracked["value"][there][0], values[0], atol=2e-3)


def test_oscillation_is_that_of_the_closed_form_in_one_direction():
    """k = 1, GD: σ² = 2⟨−∇L, ∇S⟩/‖∇S‖² as dt → 0 [Cohen et al., eq. 8]."""
    problem = Problem.from_function(network, start())
    # The formula is for the exact eigenvector; the default tolerance lets X be some per cent off.
    exact = EigsOptions(tolerance=1e-4, max_iterations=20)
    settings = {"processes": [Central(substeps=64)], "eval_every": 100, "eigs": exact}
    result = simulate(problem, optax.sgd(0.3), steps=21, **settings)
    critical, trace = columns(result, "central", "num_critical", "sigma_trace")
    assert critical[-1] == 1
    from cflow_cli.simulation import Simulation

    simulation = Simulation(problem, optax.sgd(0.3), steps=20, **settings)
    for _ in simulation:
        pass
    w = simulation._runs["central"].state.flow.weights
    _, vectors = np.linalg.eigh(jax.hessian(network)(w))
    u = jnp.asarray(vectors[:, -1])
    slope = jax.grad(lambda w: problem.hvp(w, u) @ u)(w)
    expected = 2 * float(-jax.grad(network)(w) @ slope) / float(slope @ slope)
    np.testing.assert_allclose(0.3 * trace[-1], expected, rtol=0.02)


def test_effective_sharpness_is_that_of_the_rate_to_come():
    """On a quadratic S_eff is 3·lr(t) for gradient descent, and 3·lr(t)/(1 + β) with momentum."""
    scales = jnp.array([3.0, 1.0, 0.5])
    problem = Problem.from_function(lambda w: 0.5 * jnp.sum(scales * w**2), jnp.ones(3))
    rate = optax.linear_schedule(0.01, 0.11, 10)
    wanted = 3 * np.array([float(rate(t)) for t in range(6)])
    for momentum, processes in ((None, ("discrete", "central", "rod", "edge")), (0.9, ("central",))):
        result = simulate(problem, optax.sgd(rate, momentum), processes=processes, steps=6)
        for _, rows in result.metrics.groupby("process"):
            np.testing.assert_allclose(rows["effective_sharpness"], wanted / (1 + (momentum or 0)), rtol=1e-6)
