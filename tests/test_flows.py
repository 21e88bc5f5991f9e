"""Every flow of tests/table.py with every optimizer there, on a loss of six weights."""

from functools import cache

import numpy as np
import pytest
from table import EIGS, FLOWS, JUMP, OPERATORS, OPTIMIZERS, STEPS, TOP, problem

from cflow_cli import Result
from cflow_cli.config import tree
from cflow_cli.engine.options import BUILT_IN
from cflow_cli.engine.simulation import Simulation
from cflow_cli.errors import UserError
from cflow_cli.flows.options import Flow
from cflow_cli.measurements.stationary_preconditioner import StationaryPreconditioner
from cflow_cli.optimizers import UpdateMap


def pairs(which=lambda row: True):
    """Combinations that go together; those which `make test` does not step are marked as slow."""
    return [
        pytest.param(flow, name, marks=() if name in row.short else pytest.mark.slow, id=f"{flow}-{name}")
        for flow, row in FLOWS.items()
        for name in OPTIMIZERS
        if name not in row.refused and which(row)
    ]


@cache
def optimizer_of(name, times=1):
    return OPTIMIZERS[name].build(OPTIMIZERS[name].schedule(times))


def simulation_of(flow, optimizer, times):
    # In two chunks, between which the simulation can be left.
    return Simulation(
        problem(),
        optimizer_of(optimizer, times),
        processes=[FLOWS[flow].flow],
        steps=STEPS,
        chunk=STEPS // 2,
        eigs=EIGS,
        kick=0.0,
    )


def run(flow, optimizer, times=None):
    """Its rows, what is left at the end, and the snapshot half-way."""
    return ended(flow, optimizer, times or FLOWS[flow].times)


@cache
def ended(flow, optimizer, times):
    simulation = simulation_of(flow, optimizer, times)
    for chunk in simulation:
        if chunk.step == STEPS // 2:
            half = simulation.snapshot()
    result = Result.of(simulation)
    return result.metrics.set_index("step"), result, simulation, half


@pytest.mark.parametrize(("flow", "optimizer"), pairs())
def test_it_starts_where_the_optimizer_is_and_steps_down(flow, optimizer):
    metrics, result, simulation, _ = run(flow, optimizer)
    assert metrics.index.tolist() == list(range(simulation.warm_start, STEPS))
    assert metrics.distance_to_discrete.iloc[0] == 0
    assert np.isfinite(metrics[["loss", "effective_sharpness", "distance_to_discrete"]]).all(axis=None)
    assert metrics.loss.iloc[-1] < metrics.loss.iloc[0]
    assert metrics.effective_sharpness.iloc[-1] < 2.1
    assert result.statuses[flow]["status"] in ("ok", "eigenpairs_not_converged")
    assert np.isfinite(result.weights[flow]).all()


@pytest.mark.parametrize(("flow", "optimizer"), pairs())
def test_it_goes_on_from_a_snapshot_to_the_bit(flow, optimizer):
    metrics, result, _, half = run(flow, optimizer)
    again = simulation_of(flow, optimizer, FLOWS[flow].times)
    again.restore(half)
    for _ in again:
        pass
    np.testing.assert_array_equal(again.weights()[flow], result.weights[flow])
    rest = again.metrics.set_index("step")
    np.testing.assert_array_equal(rest.loss, metrics.loss.loc[rest.index])
    assert again.counts == result.counts and again.statuses == result.statuses


@pytest.mark.parametrize(("flow", "optimizer"), pairs(lambda row: row.is_optimizer))
def test_below_the_edge_it_is_the_optimizer(flow, optimizer):
    metrics, result, simulation, _ = run(flow, optimizer)
    assert metrics.num_critical.max() == 0
    np.testing.assert_allclose(result.weights[flow], result.weights["discrete"], rtol=1e-12, atol=1e-14)
    if flow == "central" and simulation.blocks == run("stable", optimizer)[2].blocks:
        # The same program, told that nothing oscillates.
        np.testing.assert_array_equal(result.weights[flow], run("stable", optimizer)[1].weights["stable"])


@pytest.mark.parametrize(("flow", "optimizer"), pairs())
def test_it_follows_a_schedule(flow, optimizer):
    """The rate of the step to come counts: the step size doubles with the rate, and so does S_eff where D is the rate."""
    metrics = run(flow, optimizer)[0]
    row = OPTIMIZERS[optimizer]
    rate = np.asarray([float(row.schedule()(t)) for t in metrics.index])
    size = metrics.effective_step_size
    np.testing.assert_allclose(size[JUMP] / size[JUMP - 1], 2, rtol=0.1)
    if row.edge is not None:
        np.testing.assert_allclose(metrics.effective_sharpness, 2 / row.edge * TOP * rate, rtol=1e-6)


@pytest.mark.parametrize(
    "flow",
    [
        # At another rate, which takes a run of its own.
        pytest.param(flow, marks=() if row.grows[1] == row.times else pytest.mark.slow)
        for flow, row in FLOWS.items()
        if row.grows
    ],
)
def test_its_block_grows_when_another_direction_comes_to_the_edge(flow):
    metrics, result, simulation, _ = run(flow, *FLOWS[flow].grows)
    assert metrics.num_tracked.max() >= 2 and simulation.blocks[flow] == 4
    assert not result.statuses[flow]["steps_with"].get("too_many_tracked")
    state = simulation.states[flow].process
    assert state.vectors.shape == (4, 6) and state.x.shape == (4, 4)
    np.testing.assert_allclose(state.vectors @ state.vectors.T, np.eye(4), atol=0.5)


@pytest.mark.parametrize("flow", [flow for flow, row in FLOWS.items() if not row.grows])
def test_a_flow_that_does_not_oscillate_needs_one_direction(flow):
    metrics, _, simulation, _ = run(flow, "gd")
    assert metrics.effective_sharpness.max() > 1.85 and simulation.blocks[flow] == 2


@cache
def update_of(optimizer):
    return UpdateMap.of(optimizer_of(optimizer), problem().w0)


@pytest.mark.parametrize("flow", FLOWS)
def test_what_does_not_go_together_is_refused_with_the_reason(flow):
    row = FLOWS[flow]
    for optimizer in OPTIMIZERS:
        if optimizer in row.refused:
            with pytest.raises(UserError, match=row.refused[optimizer]) as raised:
                row.flow.stepper(update_of(optimizer), EIGS)
            assert "\n" not in str(raised.value)
        else:
            row.flow.stepper(update_of(optimizer), EIGS)


@pytest.mark.parametrize("optimizer", ["gd", "adam", "adagrad"])
def test_the_stationary_preconditioner_is_measured_for_rmsprop_only(optimizer):
    with pytest.raises(UserError, match="known for RMSProp"):
        Simulation(problem(), optimizer_of(optimizer), steps=9, measurements=(StationaryPreconditioner(),))


def test_the_table_is_complete():
    assert {*OPTIMIZERS, *OPERATORS} == set(tree.groups()["optimizer"])
    flows = {name for name, kind in BUILT_IN.items() if issubclass(kind, Flow)}
    assert set(FLOWS) == flows | {"modified"}
