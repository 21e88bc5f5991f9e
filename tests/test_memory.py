"""Derivatives in batches that fit into memory: what is estimated, what is told, and what happens when there is none."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toys

from cflow_cli import Problem
from cflow_cli.computing import as_for
from cflow_cli.config import composing
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.datasets import Dataset
from cflow_cli.engine import memory, running
from cflow_cli.engine.simulation import Simulation
from cflow_cli.errors import UserError
from cflow_cli.losses import mse
from cflow_cli.models.base import Linear
from cflow_cli.problem import each_row
from cflow_cli.runs.run import run

SGD = optax.sgd(1.0)


def fault(text="RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes."):
    raise jax.errors.JaxRuntimeError(text)


def regression(n=12):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 3)), rng.normal(size=(n, 2))
    data = Dataset(x=x, y=y, task="regression", input_shape=(3,), num_outputs=2, name="regression")
    return Problem.from_model(Linear(3, 2, jax.random.PRNGKey(0)), data, mse(), "float64")


def test_directions_in_batches_are_the_same_directions():
    problem = Problem.from_function(toys.network, toys.start())
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(7, 86)))
    wanted = problem.linearize(problem.w0).hvp(rows)
    with as_for("gpu"):
        for at_once in (1, 3, None):
            some = problem.in_batches(at_once, None)
            found = jax.jit(lambda rows, some=some: some.linearize(some.w0).hvp(rows))(rows)
            np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)
        text = str(jax.make_jaxpr(lambda rows: each_row(jnp.sin, rows, 3))(rows))
    assert "f64[3,86]" in text  # seven in three passes of three at most


@pytest.fixture(scope="module")
def costs():
    """Of a problem that is large beside its weights, as a GPU's programs have them."""
    problem = regression(400)
    with as_for("gpu"):
        return problem, memory.account(problem)


def test_the_account_is_a_straight_line(costs):
    problem, found = costs
    rows = jnp.zeros((6, problem.num_parameters))
    with as_for("gpu"):
        six = memory.needed(lambda rows: problem.linearize(problem.w0).hvp(rows), (rows,))
    assert found.of(6) == pytest.approx(six, rel=0.25)
    assert found.of(1) < found.of(2) < found.of(6)


def test_what_fits_is_found(costs):
    """Processes take turns first, then directions, then examples."""
    problem, _ = costs
    account = memory.Account(
        gradient=4 * memory.GIB,
        products=8 * memory.GIB,
        further_product=4 * memory.GIB,
        third=7 * memory.GIB,
        further_third=3 * memory.GIB,
    )

    def by_examples(problem, _):
        part = (problem.slice_size or 400) / 400
        return memory.Account(*(int(part * bytes) for bytes in account))

    def plan(gib, **changes):
        asked = {"has": int(gib * memory.GIB), "used": 0, "block": 4, "largest": 8, "processes": 4}
        return memory.fitted(problem, by_examples, **(asked | changes))

    ample = plan(400)
    assert (ample.at_once, ample.examples, ample.in_turn) == (None, None, False)
    assert ample.sentence == "memory: block 4 needs 80 of 400 GiB"
    assert plan(80).in_turn and plan(80).at_once is None and not plan(80, processes=1).in_turn
    two = plan(16)
    assert (two.at_once, two.examples, two.in_turn) == (2, None, True)
    assert two.sentence == "memory: block 4 needs 12 of 16 GiB, 2 directions at once, processes in turn"
    sliced = plan(4)
    assert sliced.at_once == 1 and 0 < sliced.examples <= 400 * 4 / 8 and sliced.needs < 4 * memory.GIB
    with pytest.raises(UserError, match=r"one direction of one example need .* try a smaller model"):
        plan(1e-6)


def advancing(monkeypatch, fails):
    """Have the chunks of some problems and blocks fail."""
    real, failed = running.run_chunk, []

    def run_chunk(process, problem, context, state, *rest):
        block = process.rows(state.process).shape[0]
        if fails(problem, block):
            failed.append((problem.at_once, block))
            fault()
        return real(process, problem, context, state, *rest)

    monkeypatch.setattr(running, "run_chunk", run_chunk)
    return failed


def simulated(problem, said=None, **settings):
    eigs = EigsOptions(block=2, max_tracked=4, tolerance=1e-7, max_iterations=50)
    asked = {"processes": ("discrete",), "measurements": (), "steps": 8, "chunk": 4, "eigs": eigs}
    with as_for("gpu"):
        simulation = Simulation(problem, SGD, **(asked | settings))
        for chunk in simulation:
            (said if said is not None else []).extend(chunk.messages)
    return simulation


def test_a_block_for_which_there_is_no_memory_is_taken_in_smaller_batches(monkeypatch):
    """Also where it has grown on the way; the steps are those of a run that always had enough."""
    problem, said = Problem.from_function(toys.network, toys.start()), []
    wanted = simulated(problem).metrics
    failed = advancing(monkeypatch, lambda p, block: block >= 4 and (p.at_once or block) > 1)
    found = simulated(problem, said)
    assert failed[:2] == [(None, 4), (2, 4)] and found.problem.at_once == 1
    assert [text.split(" from step")[0] for text in said if "device" in text] == [
        "the device has no memory for 4 directions at once: 2",
        "the device has no memory for 2 directions at once: 1",
    ]
    assert list(found.metrics.step) == list(wanted.step) == list(range(8)) and found.blocks["discrete"] >= 4
    np.testing.assert_allclose(found.metrics.loss, wanted.loss, rtol=1e-6)


def test_processes_take_turns_before_batches_get_smaller(monkeypatch):
    problem, said, at_work = Problem.from_function(toys.network, toys.start()), [], []

    def fails(problem, block):
        at_work.append(block)
        return len(at_work) == 1

    advancing(monkeypatch, fails)
    simulation = simulated(problem, said, processes=("discrete", "midpoint"), steps=4)
    assert said == ["the device has no memory for all processes at once: in turn from step 0"]
    assert simulation.problem.at_once is None and len(simulation.metrics) == 7


def test_where_nothing_is_left_to_divide_the_run_ends_with_a_sentence(monkeypatch):
    advancing(monkeypatch, lambda *_: True)
    with pytest.raises(
        UserError, match="ran out of memory at step 0, with derivatives along one direction at a"
    ):
        simulated(Problem.from_function(toys.network, toys.start()), steps=4)


def test_another_failure_of_the_device_is_not_hidden(monkeypatch):
    monkeypatch.setattr(running, "run_chunk", lambda *_: fault("INTERNAL: no"))
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        simulated(Problem.from_function(toys.network, toys.start()), steps=4)


def test_examples_are_divided_where_one_direction_is_too_much():
    problem, said = regression(), []
    gradient = problem.gradient(problem.w0)
    for _ in range(3):
        problem, sentence = memory.less(problem, 1, 7)
        said.append(sentence)
        np.testing.assert_allclose(problem.gradient(problem.w0), gradient, rtol=1e-12)
    assert problem.slice_size == 1 and said[0].endswith("12 examples at once: slices of 6 from step 7 on")
    with pytest.raises(UserError, match="along one direction of a single example at a time"):
        memory.less(problem, 1, 7)


def test_a_limit_is_told_and_kept(tmp_path, capsys):
    small = ["data.n=20", "data.n_test=10", "model.widths=[4]", "steps=2", "processes=[discrete]"]
    run(composing.compose([*small, "measurements=[]", "memory_gib=2"]), tmp_path / "run")
    assert "memory: block 6 needs 0.0" in (said := capsys.readouterr().out) and " of 2 GiB\n" in said
    kept = json.loads((tmp_path / "run" / "manifest.json").read_text())["memory"]
    assert kept["has"] == 2 * memory.GIB and 0 < kept["needs"] < 2**22 and kept["at_once"] is None
    with pytest.raises(UserError, match="derivatives along one direction of one example need"):
        run(composing.compose([*small, "memory_gib=1e-3"]), tmp_path / "none")
    assert not (tmp_path / "none").exists()
