"""What a step costs, in derivative evaluations: counted, not timed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toys import network, start

from cflow_cli import Problem, simulate
from cflow_cli.curvature import slices
from cflow_cli.curvature.block import random_rows
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.flows import central, third_derivatives
from cflow_cli.flows.base import FlowState
from cflow_cli.flows.options import Central
from cflow_cli.optimizers.update_map import UpdateMap

BLOCK = 6


@pytest.fixture(scope="module")
def problem():
    return Problem.from_function(network, start())


def test_a_step_costs_a_block_of_products_or_two_and_a_third_derivative_per_pair(problem):
    result = simulate(
        problem,
        optax.sgd(0.6),
        processes=["midpoint", "central"],
        steps=100,
        eigs=EigsOptions(block=BLOCK, max_tracked=BLOCK),
        kick=1e-3,
    )
    metrics = result.metrics[result.metrics.step > 10]
    flow = metrics[metrics.process == "central"]
    k = flow.num_critical
    assert k.max() >= 2
    assert (flow.third_derivatives == k * (k + 1) // 2).all()
    assert (flow.gradients == 1).all()
    for _, rows in metrics.groupby("process"):
        assert rows.hvps.mean() <= 2 * BLOCK


@pytest.mark.slow
def test_third_derivatives_serve_several_steps(monkeypatch):
    """They do not change where L is a cubic, and serve as long as the plane of its two directions does not turn."""
    monkeypatch.setattr(third_derivatives, "_LARGEST_PART_OUTSIDE", 1e-10)
    drive = jnp.asarray([0.1, 0.08, 0.05])

    def cubic(w):
        x, z, y = w[0], w[1], w[2:]
        return 0.5 * (8 + y[0]) * x**2 + 0.5 * (8.5 + y[1]) * z**2 + y[2] * x * z - y @ drive

    def run(every):
        return simulate(
            Problem.from_function(cubic, jnp.asarray([0.02, 0.01, 0.0, 0.0, 0.0])),
            optax.sgd(0.22),
            processes=["discrete", Central(third_derivatives_every=every)],
            steps=160,
            eigs=EigsOptions(block=5, max_tracked=5, track_above=1.5, tolerance=1e-9),
        )

    always, seldom = (run(every) for every in (1, 1000))
    once, reused = (r.metrics[r.metrics.process == "central"] for r in (always, seldom))
    assert once.num_critical.max() == 2
    assert (once.third_derivatives == once.num_critical * (once.num_critical + 1) // 2).all()
    assert (reused.third_derivatives[reused.num_critical == 2] > 0).sum() == 1
    for name in ("loss", "x_trace", "distance_to_discrete"):
        np.testing.assert_allclose(reused[name], once[name], rtol=1e-6, atol=1e-12)


def _taken(stepper, problem, state):
    new, info = stepper(problem, state, state.optimizer, jnp.asarray(300))
    return new, info.third_derivatives


@pytest.mark.slow
def test_neither_the_size_of_the_algebra_nor_slices_of_the_weights_matter(problem, monkeypatch):
    """It is compiled for a few numbers of directions, and sums are taken over slices; the step is the same."""
    optimizer = optax.rmsprop(0.6, decay=0.95, initial_scale=1.0, eps_in_sqrt=False)
    update = UpdateMap.of(optimizer, problem.w0)
    rows = random_rows(jax.random.PRNGKey(0), BLOCK, 86, problem.w0.dtype)
    state = FlowState(problem.w0, update.init(problem.w0), rows, jnp.zeros((BLOCK, BLOCK)), jnp.asarray(True))
    steps = []
    for sizes, shortest in (((3,), 256), ((), 40)):
        monkeypatch.setattr(central, "_COMPILED_FOR", sizes)
        monkeypatch.setattr(slices, "_NUMBERS_IN_CACHE", 1)
        monkeypatch.setattr(slices, "_SHORTEST_SLICE", shortest)
        stepper = Central().stepper(update, EigsOptions(tolerance=1e-6))
        new, pairs = jax.jit(lambda s, stepper=stepper: _taken(stepper, problem, s))(state)
        assert 1 < pairs <= 6
        steps.append(new)
    np.testing.assert_allclose(steps[0].weights, steps[1].weights, rtol=1e-6)
    np.testing.assert_allclose(steps[0].x, steps[1].x, atol=1e-6 * np.abs(steps[1].x).max())
