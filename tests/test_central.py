"""The central flow against closed forms, dense spectra, the real optimizer, and its own refinement."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import RMSPROP, columns, network, start, valley

from cflow_cli import Problem, simulate
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.engine.simulation import Simulation
from cflow_cli.flows.options import Central, Stable
from cflow_cli.measurements.coordinates import Coordinates

LR, A, B, C = 0.1, 12.0, 4.0, 1.0
VALLEY = valley(A, B, C)


def test_valley_follows_the_closed_form():
    """At the edge the sharpness is held at 2/η by a variance σ² = 2⟨−∇L, ∇S⟩/‖∇S‖² = 2c/b of x."""
    problem = Problem.from_function(VALLEY, jnp.asarray([0.0, 0.0]))
    result = simulate(
        problem,
        optax.sgd(LR),
        processes=("central", "stable"),
        steps=80,
        measurements=(Coordinates(watch=[0, 1]),),
    )
    (s_eff,) = columns(result, "central", "effective_sharpness")
    (free,) = columns(result, "stable", "effective_sharpness")
    at_edge = int(np.argmax(s_eff > 2 - 1e-9))
    assert 18 <= at_edge <= 22  # (2/η − a)/(ηbc) = 20 steps
    np.testing.assert_allclose(s_eff[at_edge:], 2, atol=1e-9)
    np.testing.assert_allclose(free, LR * (A + B * LR * C * np.arange(80)), rtol=1e-9)
    trace, loss, predicted, grad = (
        a[at_edge + 1 :]
        for a in columns(result, "central", "x_trace", "loss", "predicted_loss", "predicted_grad_norm_sq")
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
        Problem.from_function(VALLEY, jnp.asarray([1e-3, 0.0])),
        optax.sgd(0.05),
        processes=("discrete", "central"),
        steps=3000,
        kick=1e-2,
        measurements=(Coordinates(watch=[0, 1]),),
    )
    trace, predicted = columns(result, "central", "x_trace", "predicted_loss")
    (loss,) = columns(result, "discrete", "loss")
    late = slice(1500, None)
    # On this loss g_x = S x, and S = a + b y up to the small off-diagonal part of H.
    watched = result.eigenvalues.query("process == 'discrete' and kind == 'grad_sq' and index == 0")
    squares = watched.value.to_numpy()
    np.testing.assert_allclose((squares / (2 / 0.05) ** 2)[late].mean(), 0.05 * trace[late].mean(), rtol=0.05)
    np.testing.assert_allclose(loss[late].mean(), predicted[late].mean(), atol=0.05 * abs(2 / 0.05 * C / B))


@pytest.mark.slow
def test_halving_dt_halves_the_error():
    """Order one in dt of the central and the stable flow, through the edge of stability, by regression over steps."""
    problem = Problem.from_function(network, start())
    optimizer = optax.sgd(0.25)

    def ends(substeps):
        flows = [Central(substeps=substeps), Stable(substeps=substeps)]
        # One direction at the edge and another on its way need no more room than this.
        eigs = EigsOptions(block=3, max_tracked=3)
        result = simulate(problem, optimizer, processes=flows, steps=30, eigs=eigs, measurements=())
        assert columns(result, "central", "num_critical")[0].max() >= 1
        assert all(status["status"] != "too_many_tracked" for status in result.statuses.values())
        return np.stack([result.weights["central"], result.weights["stable"]])

    sizes = np.array([2, 4, 8])
    values = {int(m): ends(int(m)) for m in (*sizes, 16)}
    reference = 2 * values[16] - values[8]  # the error of first order cancels
    for flow in range(2):
        errors = [np.linalg.norm(values[int(m)][flow] - reference[flow]) for m in sizes]
        slope = np.polyfit(np.log(1 / sizes), np.log(errors), 1)[0]
        assert 0.8 < slope < 1.4, (flow, slope, errors)


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(optax.sgd(0.6), marks=pytest.mark.slow),
        pytest.param(optax.sgd(0.3, momentum=0.8), marks=pytest.mark.slow),
        RMSPROP,
    ],
    ids=["gd", "momentum", "rmsprop"],
)
def test_the_central_flow_holds_every_eigenvalue_at_two(optimizer):
    """Compare with the dense spectrum at the end, not with what the flow tracked."""
    simulation = Simulation(
        Problem.from_function(network, start()), optimizer, processes=["central"], steps=120, warm_start=5
    )
    for chunk in simulation:
        if 5 < chunk.step < 120:
            at, state = chunk.step, simulation.states["central"].process
    d, _ = simulation.optimizer.linear_response(state.optimizer)
    root = np.broadcast_to(np.sqrt(np.asarray(d)), state.weights.shape)
    hessian = np.asarray(jax.hessian(network)(state.weights))
    values = np.linalg.eigvalsh(root[:, None] * hessian * root[None, :])[::-1]
    critical = columns(simulation, "central", "num_critical")[0]
    assert critical.max() >= 1
    assert values[0] < 2.02
    tracked = chunk.eigenvalues
    there = (tracked["step"] == at) & (tracked["kind"] == "effective")
    # A Ritz value is as near to an eigenvalue as the square of its residual, which may be 0.03 λ.
    np.testing.assert_allclose(tracked["value"][there][0], values[0], atol=2e-3)


@pytest.mark.slow
def test_oscillation_is_that_of_the_closed_form_in_one_direction():
    """k = 1, GD: σ² = 2⟨−∇L, ∇S⟩/‖∇S‖² as dt → 0 [Cohen et al., eq. 8]."""
    problem = Problem.from_function(network, start())
    # The formula is for the exact eigenvector; the default tolerance lets X be some per cent off.
    exact = EigsOptions(tolerance=1e-4, max_iterations=20)
    simulation = Simulation(
        problem,
        optax.sgd(0.3),
        processes=[Central(substeps=64)],
        steps=21,
        pause_every=20,
        eigs=exact,
        measurements=(),
    )
    for chunk in simulation:
        if chunk.step == 20:
            w = simulation.states["central"].process.weights
    critical, trace = columns(simulation, "central", "num_critical", "x_trace")
    assert critical[-1] == 1
    _, vectors = np.linalg.eigh(jax.hessian(network)(w))
    u = jnp.asarray(vectors[:, -1])
    slope = jax.grad(lambda w: problem.hvp(w, u) @ u)(w)
    expected = 2 * float(-jax.grad(network)(w) @ slope) / float(slope @ slope)
    np.testing.assert_allclose(0.3 * trace[-1], expected, rtol=0.02)


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
