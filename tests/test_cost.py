"""What a step costs, in derivative evaluations: counted, not timed."""

from functools import partial

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


@pytest.mark.parametrize("bend", [pytest.param(0.0, marks=pytest.mark.slow), 0.5])
def test_third_derivatives_serve_several_steps(bend, monkeypatch):
    """Where L is a cubic they do not change and serve as long as they may; else until the curvature tells of it."""
    monkeypatch.setattr(third_derivatives, "_LARGEST_PART_OUTSIDE", 1e-10)
    monkeypatch.setattr(third_derivatives, "_LARGEST_MISS", 1e-5)
    drive = jnp.asarray([0.1, 0.08, 0.05])

    def loss(w):
        x, z, y = w[0], w[1], w[2:]
        sharper = y[:2] + bend * y[:2] ** 2
        return 0.5 * (8 + sharper[0]) * x**2 + 0.5 * (8.5 + sharper[1]) * z**2 + y[2] * x * z - y @ drive

    def run(every):
        found = simulate(
            Problem.from_function(loss, jnp.asarray([0.02, 0.01, 0.0, 0.0, 0.0])),
            optax.sgd(0.22),
            processes=["discrete", Central(third_derivatives_every=every)],
            steps=160,
            eigs=EigsOptions(block=5, max_tracked=5, track_above=1.5, tolerance=1e-9),
        )
        return found.metrics[found.metrics.process == "central"]

    once, often = run(1), run("auto")
    assert once.num_critical.max() == 2
    assert (once.third_derivatives == once.num_critical * (once.num_critical + 1) // 2).all()
    computed = (often.third_derivatives[often.num_critical == 2] > 0).sum()
    steps = (often.num_critical == 2).sum()
    if bend:
        assert steps / third_derivatives._MOST_STEPS + 3 < computed < steps / 3
        assert np.abs(often.loss - once.loss).max() < 1e-3 * np.abs(once.loss).max()
        return
    assert computed == -(-steps // third_derivatives._MOST_STEPS)
    seldom = run(1000)
    assert (seldom.third_derivatives[seldom.num_critical == 2] > 0).sum() == 1
    for reused in (often, seldom):
        for name in ("loss", "x_trace", "distance_to_discrete"):
            np.testing.assert_allclose(reused[name], once[name], rtol=1e-6, atol=1e-12)


def test_what_third_derivatives_take_is_bounded(problem, monkeypatch):
    """Where a grown block would make them too many to be kept, they are computed at every step again."""
    monkeypatch.setattr(third_derivatives, "_MOST_BYTES", 3 * len(problem.w0) * 8)
    start = partial(third_derivatives.remember_none, problem.w0, uniform=True)
    assert start(block=2, every=None) != ()
    assert start(block=3, every=None) == ()
    assert start(block=3, every=2) != ()


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
