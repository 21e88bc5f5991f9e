"""Data divided among devices: the same numbers up to the order of sums."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cflow_cli.runs import devices

ROOT = Path(__file__).resolve().parents[1]

PROGRAM = """
import sys, warnings
warnings.simplefilter("error")
import jax, equinox as eqx, numpy as np
from cflow_cli.config import composing
from cflow_cli.errors import UserError
from cflow_cli.runs.run import prepare
from jax._src import monitoring

compiled = []
monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
)

SMALL = ["data.n=40", "data.n_test=12", "model.widths=[8]", "steps=16", "lr=0.5", "dtype=float64"]
# The flow is as exact as its eigenvectors, whose iteration ends by a threshold that rounding may cross.
EXACT = ["processes=[central]", "eigs.block=3", "eigs.tolerance=1e-7", "eigs.max_iterations=50", "checkpoint.every=8"]

def prepared(*overrides):
    return prepare(composing.compose([*SMALL, *EXACT, *overrides])).simulation

@eqx.filter_jit
def derivatives(problem):
    u, v = np.random.default_rng(0).normal(size=(2, problem.num_parameters))
    linear = problem.linearize(problem.w0)
    return linear.loss, linear.gradient, linear.hvp(np.stack([u, v])), problem.third(problem.w0, u, v)

one = prepared()
wanted = derivatives(one.problem)
for overrides in (["devices=4"], ["devices=all", "data.microbatch=8"]):
    several = prepared(*overrides)
    assert several.problem.num_devices == 4 and one.problem.num_devices == 1
    assert {s.data.shape[0] for s in several.problem.objective.x.addressable_shards} == {10}
    for ours, theirs in zip(derivatives(several.problem), wanted):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-10, atol=1e-10)

several = prepared("devices=4")
tables = []
for simulation in (one, several):
    chunks = []
    for chunk in simulation:
        chunks.append(chunk.metrics)
        if simulation is several and chunk.step == 8:
            before = len(compiled)
    tables.append({name: np.concatenate([part[name] for part in chunks]) for name in chunks[0]})
# The state goes around in the same places: nothing is compiled anew for later chunks.
assert len(compiled) == before, compiled[before:]
wanted, found = tables
assert found["num_critical"].max() >= 1
for column in ("loss", "accuracy", "test_loss", "effective_sharpness", "x_trace"):
    np.testing.assert_allclose(found[column], wanted[column], rtol=1e-6, atol=1e-9, err_msg=column)

for overrides, words in (
    (["devices=3"], "data.n=40 is not a multiple of the 3 devices"),
    (["devices=5"], "JAX sees only 4 here"),
    (["devices=2", "device=cpu:1"], "give only its kind: device=cpu"),
    (["devices=4", "data.microbatch=10"], "data.microbatch=10 is not a multiple"),
):
    try:
        prepared(*overrides)
    except UserError as error:
        assert words in str(error), str(error)
    else:
        raise AssertionError(overrides)

print("same")
"""


@pytest.mark.slow
def test_four_devices_give_the_numbers_of_one():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
            "JAX_PLATFORMS": "cpu",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.endswith("same\n"), done.stderr[-3000:]


CHOSEN = """
import jax
import numpy as np

from cflow_cli.config import composing
from cflow_cli.runs.run import prepare

SMALL = ["model.widths=[4]", "data.n=10", "data.n_test=10", "steps=6", "checkpoint.every=3", "lr=0.3", "processes=[discrete,stable]"]

def prepared(device):
    return prepare(composing.compose([*SMALL, f"device={device}"])).simulation

def places(*trees):
    return {str(d) for a in jax.tree.leaves(trees) if isinstance(a, jax.Array) for d in a.devices()}

ends = []
for device in ("cpu:0", "cpu:1"):
    simulation = prepared(device)
    for chunk in simulation:
        if chunk.step == 3:
            at_pause = simulation.snapshot()
    resumed = prepared(device)
    resumed.restore(at_pause)
    list(resumed)
    for one in (simulation, resumed):
        own = (one.problem, one.discrete, one.states, one.context, one.optimizer)
        assert places(own) == {str(jax.devices()[int(device[-1])])} == places(*jax.tree.leaves(own)), places(own)
        ends.append(one.weights())
for end in ends[1:]:
    for process, w in ends[0].items():
        np.testing.assert_array_equal(end[process], w)
print("there")
"""


def test_the_chosen_device_computes():
    """In all threads, after a resume, and when another one has been chosen before in the same process."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHOSEN)],
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2",
            "JAX_PLATFORMS": "cpu",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.endswith("there\n"), done.stderr[-3000:]


def test_all_is_computed_in_full_precision_from_python_too():
    """The loss as it is traced, in whatever thread, sees neither TF32 allowed nor another device than the problem's."""
    import jax
    import jax.numpy as jnp
    import optax

    from cflow_cli import Problem, connect, simulate

    seen = set()

    def loss(w):
        config = jax.config
        seen.add((config.jax_default_matmul_precision, str(config.jax_default_device)))
        return jnp.sum(w**4) / 4

    problem = Problem.from_function(loss, jnp.array([1.0, -2.0]))
    seen.clear()
    simulate(problem, optax.sgd(0.01), steps=3)
    connect(problem, [-1.0, 0.0], [1.0, 0.0], "line")
    assert seen == {("highest", str(jax.devices()[0]))}


@pytest.mark.parametrize(
    ("wanted", "hidden"),
    [(["cpu"], True), (["cpu", "cpu:1"], True), (["cpu", "cuda:1"], False), (["auto"], False), ([], False)],
)
def test_gpus_are_hidden_where_all_runs_are_on_the_cpu(monkeypatch, wanted, hidden):
    monkeypatch.setitem(os.environ, "JAX_PLATFORMS", "")
    monkeypatch.delitem(sys.modules, "jax")
    devices.hide_gpus(wanted)
    assert os.environ["JAX_PLATFORMS"] == ("cpu" if hidden else "")


def test_a_sweep_over_devices_leaves_each_run_its_own(monkeypatch, tmp_path):
    """What is hidden is said once, for all runs, and by no run for the next; here a CPU stands in for the GPU."""
    import jax

    from cflow_cli.cli import main

    said, asked, found = [], [], jax.local_devices
    monkeypatch.setattr(devices, "hide_gpus", lambda wanted: said.append(list(wanted)))
    monkeypatch.setattr(
        jax, "local_devices", lambda backend=None: asked.append(backend) or found(backend="cpu")
    )
    tiny = [
        "model.widths=[4]",
        "data.n=10",
        "data.n_test=null",
        "steps=2",
        "processes=[discrete]",
        "measurements=[]",
    ]
    assert main(["run", "-m", "device=cpu,cuda", *tiny, f"hydra.sweep.dir={tmp_path / 'here'}"]) == 0
    assert said == [["cpu", "cuda"]] and asked == ["cpu", "cuda"]


def test_auto_takes_the_device_that_is_done_first(monkeypatch):
    """With a GPU that is only said to be there: digits are done before its kernels are launched, CIFAR-10 is not."""
    import jax

    from cflow_cli.config import checking, composing
    from cflow_cli.datasets.digits import digits
    from cflow_cli.runs import assembling, choosing

    cfg = composing.compose(["model.activation=identity", "data.n=100", "data.n_test=null"])
    checked = checking.check(cfg)
    problem = assembling.trained(cfg, checked, digits(n=100, n_test=None)).problem
    assert choosing.choose(problem, checked.settings) == (None, None)  # a CPU alone
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    device, why = choosing.choose(problem, checked.settings)
    assert device.platform == "cpu" and "takes the CPU" in why
    # Each layer's products: forward, for its weights, and, but for the first layer, for its inputs.
    layers = [64 * 32, 32 * 32, 32 * 10]
    wanted = 2 * 100 * (3 * sum(layers) - layers[0])
    assert choosing.operations(problem) == pytest.approx(wanted, rel=0.1)
    monkeypatch.setattr(choosing, "operations", lambda _: 3.4e9)  # of the MLP on 1,000 images of CIFAR-10
    device, why = choosing.choose(problem, checked.settings)
    assert device is None and "takes the GPU" in why
    for given in (["device=cpu"], ["devices=all"], ["device=gpu"]):
        asked = checking.check(composing.compose(given)).settings
        assert choosing.choose(problem, asked) == (None, None)


def test_a_problem_without_examples_cannot_be_divided():
    import jax
    import jax.numpy as jnp

    from cflow_cli import Problem
    from cflow_cli.errors import UserError

    problem = Problem.from_function(lambda w: jnp.sum(w**2), jnp.ones(3))
    with pytest.raises(UserError, match="examples to divide"):
        problem.sharded(jax.devices())
