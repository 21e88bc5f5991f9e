"""The loop as a whole: records, troubles, compilation, and how well the flows predict on real data."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cflow_cli import Problem, simulate
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.datasets.digits import digits
from cflow_cli.engine.simulation import Simulation
from cflow_cli.errors import UserError
from cflow_cli.losses import mse
from cflow_cli.measurements.built_in import BUILT_IN
from cflow_cli.measurements.coordinates import Coordinates
from cflow_cli.measurements.outputs import Outputs
from cflow_cli.models.mlp import MLP
from cflow_cli.records import EIGENVALUES, KINDS, METRICS
from cflow_cli.report import definitions as define

pytestmark = pytest.mark.optimised


GD = optax.sgd(0.2)


@pytest.fixture(scope="module")
def network():
    """A GELU network on real digits, in float32 as a user runs it."""
    data = digits(n=200, classes=10)
    return Problem.from_model(MLP(data, jax.random.PRNGKey(0), widths=[32, 32]), data, mse(), jnp.float32)


@pytest.fixture(scope="module")
def descent(network):
    return simulate(network, GD, steps=200, seed=1)


def loss_error(metrics, process):
    """Error of the predicted loss, as the report has it."""
    return define.relative_error(
        define.series(metrics, "discrete", "loss"), define.prediction(metrics, process), define.onset(metrics)
    )


def test_gradient_descent_on_digits_is_predicted(descent):
    metrics = descent.metrics
    flow = define.series(metrics, "central", "effective_sharpness")
    edge = define.edge_step(flow)
    assert edge is not None
    assert define.series(metrics, "central", "num_critical").max() >= 2
    assert flow.loc[edge:].between(1.98, 2.02).all()
    distance = {p: define.series(metrics, p, "distance_to_discrete") for p in ("central", "stable")}
    assert define.distance_ratio(distance["central"], distance["stable"]) < 0.4
    assert loss_error(metrics, "central") < min(0.03, loss_error(metrics, "stable") / 2)


@pytest.mark.slow
def test_adam_on_digits_is_predicted(network):
    metrics = simulate(network, optax.adam(0.01, b2=0.99), steps=250, kick=1e-4).metrics
    flow = define.series(metrics, "central", "effective_sharpness")
    assert define.edge_step(flow) is not None
    distance = {p: define.series(metrics, p, "distance_to_discrete") for p in ("central", "stable")}
    assert define.distance_ratio(distance["central"], distance["stable"]) < 0.4
    assert loss_error(metrics, "central") < min(0.05, loss_error(metrics, "stable") / 2)


def test_records_have_the_documented_columns(descent):
    measured = [BUILT_IN[name]() for name in ("evaluation", "coordinates", "sharpness")]
    columns = [c.name for c in (*METRICS, *(c for m in measured for c in m.columns))]
    assert list(descent.metrics.columns) == columns
    assert list(descent.eigenvalues.columns) == [c.name for c in EIGENVALUES]
    own = {kind for m in measured for kind in (*m.kinds, *m.predictions()[1])}
    assert set(descent.eigenvalues.kind) == set(KINDS) | own
    for name in ("discrete", "stable", "central"):
        assert descent.metrics.step[descent.metrics.process == name].tolist() == list(range(200))
    midpoint = descent.metrics[descent.metrics.process == "midpoint"]
    assert midpoint.step.tolist() == list(range(1, 200))
    effective = descent.eigenvalues.query("process == 'central' and kind == 'effective' and index == 0")
    central = descent.metrics[descent.metrics.process == "central"]
    np.testing.assert_array_equal(effective.value, central.effective_sharpness)
    assert (central.predicted_loss >= central.loss - 1e-6).all()
    assert descent.counts["central"]["third_derivatives"] == central.third_derivatives.sum()


def test_midpoints_are_measured_at_midpoints(network):
    # The program of the descent serves: another length of chunk would be another one.
    result = simulate(network, GD, steps=6, chunk=50, processes=["midpoint"], kick=0.0)
    w = [network.w0]
    for _ in range(6):
        w.append(w[-1] - 0.2 * jax.grad(network.loss)(w[-1]))
    expected = [float(network.loss((w[t - 1] + 2 * w[t] + w[t + 1]) / 4)) for t in range(1, 6)]
    np.testing.assert_allclose(result.metrics.loss, expected, rtol=1e-5)


def test_what_is_watched_is_what_the_model_says():
    """Outputs of the first examples and squared gradients of the named weights, at the first step."""
    data = digits(n=40, classes=4)
    model = MLP(data, jax.random.PRNGKey(0), widths=[8])
    problem = Problem.from_model(model, data, mse(), jnp.float64)
    places = [5, 2]
    measured = (Coordinates(watch=places), Outputs(train=2))
    result = simulate(problem, optax.sgd(0.1), processes=["discrete"], steps=1, measurements=measured)
    first = result.eigenvalues.query("process == 'discrete' and step == 0").set_index("index")

    def of(kind):
        return first[first.kind == kind].value

    whole = jax.tree.map(lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, model)
    expected = whole(jnp.asarray(data.x[:2], jnp.float64))
    np.testing.assert_allclose(of("output").loc[list(range(8))], np.ravel(expected), rtol=1e-12)
    gradient = problem.gradient(problem.w0)
    np.testing.assert_allclose(of("grad_sq").loc[places], gradient[jnp.asarray(places)] ** 2, rtol=1e-12)
    np.testing.assert_allclose(of("effective_step_size").loc[places], 0.1, rtol=1e-12)


def test_nothing_compiles_after_the_first_chunks(network):
    """Chunks of other lengths and eigenvalues that come and go reuse the same programs."""
    compiled = []

    def listen(event, *_args, **_kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    # A block large enough for the whole run: growing it compiles anew, once per size.
    simulation = Simulation(network, GD, steps=130, chunk=30, seed=1, eigs=EigsOptions(block=16))
    critical = []
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for i, chunk in enumerate(simulation):
            critical.append(chunk.num_critical)
            if i == 0:
                compiled.clear()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert max(critical) > min(critical)
    assert set(simulation.blocks.values()) == {16}
    assert compiled == []


def test_another_learning_rate_traces_the_loop_of_the_optimizer_alone():
    """What a sweep in one process lives on; a loss that counts how often it is traced tells."""
    traced = []

    def loss(w):
        traced.append(1)
        return jnp.sum((w**2 - 1) ** 2)

    problem = Problem.from_function(loss, jnp.array([0.5, -2.0, 0.1]))
    traced.clear()
    list(Simulation(problem, optax.adam(0.01), steps=8))
    first = len(traced)
    traced.clear()
    other = Simulation(problem, optax.adam(0.02, b2=0.9), steps=8)
    assert not traced
    list(other)
    assert 0 < len(traced) <= first / 5


@pytest.mark.slow
def test_a_start_far_above_the_edge_comes_down_to_it(network):
    result = simulate(network, optax.sgd(0.7), steps=100, processes=["central"])
    sharpness = define.series(result.metrics, "central", "effective_sharpness")
    assert sharpness.iloc[0] > 2.5
    assert sharpness.iloc[-1] < 2.02
    # Where curvature changes too much in one step on the way, steps are divided, and that they were too long is said.
    off = result.metrics[result.metrics.status == "off_the_edge"]
    assert len(off) <= 3 and off.step.max() < 50
    assert set(result.statuses["central"]["steps_with"]) <= {"off_the_edge", "eigenpairs_not_converged"}


def test_divergence_stops_the_process_and_no_other():
    """Beyond the edge of a quadratic the optimizer explodes; its flow, which cannot, goes on."""
    scales = jnp.asarray([50.0, 3.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01])
    problem = Problem.from_function(lambda w: 0.5 * jnp.sum(scales * w**2), jnp.ones(10))
    result = simulate(problem, optax.sgd(0.1), steps=60, processes=["discrete", "stable"], kick=0.0)
    assert result.statuses["discrete"]["status"] == "diverged"
    stopped = result.statuses["discrete"]["step"]
    assert 0 < stopped < 20
    last = result.metrics[result.metrics.process == "discrete"].iloc[-1]
    assert (last.step, last.status) == (stopped, "diverged")
    stable = result.metrics[result.metrics.process == "stable"]
    assert len(stable) == 60
    # Gradient flow of a quadratic, exactly e^{-λt} along each direction.
    np.testing.assert_allclose(result.weights["stable"][6:], np.exp(-0.1 * scales[6:] * 60), rtol=0.02)


def test_leaving_early_keeps_what_was_done(network):
    simulation = Simulation(network, GD, steps=100, processes=["discrete"], pause_every=10)
    for chunk in simulation:
        if chunk.step == 30:
            break
    assert len(simulation.metrics) == 30
    forgetful = Simulation(network, GD, steps=100, processes=["discrete"], pause_every=10, keep_rows=False)
    assert next(iter(forgetful)).step > 0
    with pytest.raises(ValueError, match="made not to keep its rows"):
        _ = forgetful.metrics


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"processes": ["central", "centrla"]}, "unknown process 'centrla'; choose from"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"warm_start": 900}, "warm_start must lie between"),
        ({"measurements": [Coordinates(watch=[10**9])]}, "weights by their indices in 0"),
        ({"processes": ["central", "central"]}, "processes must name each once"),
    ],
)
def test_bad_settings_are_one_sentence(network, settings, message):
    with pytest.raises(UserError, match=message):
        Simulation(network, optax.sgd(0.1), **settings)


def test_an_optimizer_without_a_flow_is_refused_or_run_alone(network):
    with pytest.raises(UserError, match=r"no central flow .*not smooth.*processes=\[discrete\]"):
        simulate(network, optax.sign_sgd(1e-3), processes=["discrete", "central"])
    result = simulate(network, optax.sign_sgd(1e-3), processes=["discrete"], steps=5)
    assert result.metrics.loss.iloc[-1] < result.metrics.loss.iloc[0]
    assert result.metrics.effective_sharpness.isna().all()
    top = float(jnp.linalg.eigvalsh(jax.hessian(network.loss)(network.w0))[-1])
    np.testing.assert_allclose(result.metrics.sharpness.iloc[0], top, rtol=1e-3)


@pytest.mark.parametrize(
    "bad", [{"track_above": 1.99}, {"guard_vectors": 0}, {"every": 0}, {"tolerance": 0.0}]
)
def test_tracking_options_are_checked(bad):
    with pytest.raises(ValueError, match="eigs"):
        EigsOptions(**bad)


def test_a_run_shorter_than_its_optimizers_warm_start_has_no_flow_yet():
    settings = {"processes": ("discrete", "stable"), "measurements": ()}
    problem = Problem.from_function(lambda w: jnp.sum(w**4), jnp.ones(3))
    short, long = (Simulation(problem, optax.adam(0.01), steps=steps, **settings) for steps in (3, 8))
    for _ in short:
        pass
    assert short.step == 3 and "discrete" in short.states and "stable" not in short.states
    # Continued, it has the flows of a run that was never interrupted: they branch off where they would have.
    assert (short.warm_start, long.warm_start) == (3, 5)
    long.restore(short.snapshot())
    assert long.step == 3 and "stable" not in long.states


def test_kicks_have_a_seed_of_their_own(network):
    """That of the run, unless it is given: other kicks, and all else the same."""

    def run(**seeds):
        return simulate(network, GD, steps=3, processes=["discrete"], measurements=(), **seeds).weights[
            "discrete"
        ]

    usual = run(seed=1)
    np.testing.assert_array_equal(run(seed=1, kick_seed=1), usual)
    other = np.linalg.norm(run(seed=1, kick_seed=2) - usual)
    assert 1e-3 < other < 5e-3  # two sums of three kicks of norm 1e-3
