"""Flows of optimizers whose D is an operator: on losses of which the answer is known, and what they refuse."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import columns, valley

from cflow_cli import Problem, simulate
from cflow_cli.curvature import block, pencil
from cflow_cli.errors import UserError
from cflow_cli.flows.options import Central, Edge, Rod, Stationary
from cflow_cli.optimizers import clipped, normalised_gd

START = jnp.asarray([1e-3, 0.0])


def test_normalised_gradient_descent_is_held_at_the_edge_with_the_variance_that_its_norm_needs():
    """On the valley S = a + by, ‖g‖² has the average (c − bσ²/2)² + S²σ², and ηS/‖g‖ = 2 decides σ²."""
    rate, a, b, c = 0.1, 1.5, 1.0, 0.1
    result = simulate(
        Problem.from_function(valley(a, b, c), START), normalised_gd(rate), steps=40, measurements=()
    )
    step, edge, variance, loss = columns(
        result, "central", "step", "effective_sharpness", "sigma_trace", "loss"
    )
    late = step > 20
    np.testing.assert_allclose(edge[late], 2, atol=2e-3)
    sharpness = a - b * loss[late] / c  # at x = 0 the loss is −cy
    norm_sq = (c - b * variance[late] / 2) ** 2 + sharpness**2 * variance[late]
    np.testing.assert_allclose(rate * sharpness / np.sqrt(norm_sq), 2, rtol=0.02)


def test_below_the_edge_both_flows_are_the_optimizer():
    optimizer = clipped(optax.sgd(0.05, momentum=0.9), 0.05)
    problem = Problem.from_function(valley(1.0, 0.2, 0.1), START)
    result = simulate(problem, optimizer, steps=12, kick=0.0, measurements=())
    for process in ("stable", "central"):
        (distance,) = columns(result, process, "distance_to_discrete")
        assert distance.max() < 1e-15


def test_pairs_are_the_eigenpairs_of_the_block_solver_where_d_is_a_diagonal():
    rng = np.random.default_rng(0)
    h = rng.standard_normal((20, 20))
    h, d = jnp.asarray(h @ h.T), jnp.asarray(rng.uniform(0.1, 2.0, 20))
    rows = jnp.asarray(rng.standard_normal((4, 20)))
    settings = {"above": jnp.inf, "tolerance": 1e-3, "max_iterations": 30}
    expected = block.track(block.preconditioned(lambda v: v @ h, d), rows, **settings)
    pairs = pencil.track(lambda v: v @ h, lambda v: v * d, rows / jnp.sqrt(d), **settings)
    assert pairs.hvps == expected.hvps and bool(pairs.converged)
    np.testing.assert_allclose(pairs.values, expected.values, rtol=1e-10)
    np.testing.assert_allclose(pairs.residuals, expected.residuals, rtol=1e-4, atol=1e-10)
    np.testing.assert_allclose(pairs.covectors @ pairs.vectors.T, np.eye(4), atol=1e-10)


@pytest.mark.parametrize(
    "flow", [Rod(), Edge(), Stationary(), Central(substeps=2), Central(third_derivatives_every=2)]
)
def test_what_is_known_for_elementwise_optimizers_only_says_so(flow):
    problem = Problem.from_function(valley(1.0, 0.2, 0.1), START)
    with pytest.raises(UserError, match="elementwise"):
        simulate(problem, normalised_gd(0.1), steps=3, processes=("discrete", flow))


def test_an_optimizer_that_acts_like_a_sign_runs_without_flows():
    problem = Problem.from_function(lambda w: jnp.sum(w**2), jnp.ones(4))
    with pytest.raises(UserError, match=r"sign.*processes=\[discrete\]"):
        simulate(problem, optax.lion(0.1), steps=3)
    result = simulate(
        problem, optax.lion(0.1), steps=3, processes=("discrete",), measurements=("step_smoothness",)
    )
    assert np.isfinite(columns(result, "discrete", "step_smoothness")[0]).all()
