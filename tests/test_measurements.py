"""Measurements along every process, each against what it must give."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
import toys

from cflow_cli import Problem, simulate
from cflow_cli.config import tree
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.datasets.digits import digits
from cflow_cli.engine import measuring
from cflow_cli.engine.recording import Recorder
from cflow_cli.engine.simulation import Simulation
from cflow_cli.errors import UserError
from cflow_cli.flows.options import Central
from cflow_cli.losses import mse
from cflow_cli.measurements.base import Measurement
from cflow_cli.measurements.built_in import BUILT_IN
from cflow_cli.measurements.coordinates import Coordinates
from cflow_cli.measurements.distances import Distances
from cflow_cli.measurements.layer_sharpness import LayerSharpness
from cflow_cli.measurements.outputs import Outputs
from cflow_cli.measurements.second_moment import SecondMoment
from cflow_cli.measurements.sharpening import Sharpening
from cflow_cli.measurements.spectrum import Spectrum
from cflow_cli.measurements.step_singular_values import StepSingularValues
from cflow_cli.measurements.step_smoothness import StepSmoothness
from cflow_cli.models.mlp import MLP
from cflow_cli.records import Column

# ηS rises at η²bc = 0.01 a step from 1.8 to the edge at 2.
LR, A, B, C = 0.1, 18.0, 100.0, 0.01
EXACT = EigsOptions(tolerance=1e-10, max_iterations=50)


def valley():
    return Problem.from_function(toys.valley(A, B, C), jnp.asarray([1e-5, 0.0]))


def at_the_edge(*measurements, steps=60, processes=("discrete", "midpoint", "stable", "central")):
    return simulate(
        valley(),
        optax.sgd(LR),
        processes=processes,
        steps=steps,
        eigs=EXACT,
        kick=0.0,
        measurements=measurements,
    )


def rows(result, process):
    return result.metrics[result.metrics.process == process].set_index("step")


def of_kind(result, process, kind):
    table = result.eigenvalues
    return table[(table.process == process) & (table.kind == kind)].pivot_table(
        index="step", columns="index", values="value"
    )


def tiny(test=True):
    data = digits(n=12, n_test=5 if test else None, classes=3)
    return Problem.from_model(MLP(data, jax.random.key(0), widths=[4]), data, mse(), jnp.float64)


@dataclass(frozen=True)
class Mine(Measurement):
    """Half the squared distance from 0, the loss once more, and a function that is no quadratic."""

    every: int = 3
    name: ClassVar[str] = "mine"
    predicted: ClassVar[bool] = True
    columns: ClassVar[tuple] = (
        Column("half_norm", "float64", "weight²", "½‖w‖²"),
        Column("again", "float64", "loss", "the loss"),
        Column("cosine", "float64", "1", "Σ cos w"),
    )
    kinds: ClassVar[dict] = {"weight": "each weight"}

    def value(self, problem, w):
        return {
            "half_norm": w @ w / 2,
            "again": problem.loss(w),
            "cosine": jnp.sum(jnp.cos(w)),
            "weight": w,
        }


# --- what every measurement has ---------------------------------------------------------------------


def test_ones_own_is_evaluated_along_every_process_and_predicted_along_flows():
    result = at_the_edge(Mine())
    for process in ("discrete", "midpoint", "stable", "central"):
        own = rows(result, process)
        measured = own.index % 3 == 0
        assert (
            own.half_norm.notna().equals(own.half_norm.notna() & measured)
            and own[measured].again.notna().all()
        )
        np.testing.assert_allclose(own.again[measured], own.loss[measured], rtol=1e-12)
        assert own.predicted_half_norm.notna().any() == (process in ("stable", "central"))
    central = rows(result, "central").loc[::3]
    assert central.sigma_trace.iloc[-1] > 1e-4  # it oscillates by then
    # f = ½‖w‖² is off by ½ tr Σ, and f = L by what every flow says of its loss.
    np.testing.assert_allclose(
        central.predicted_half_norm, central.half_norm + central.sigma_trace / 2, rtol=1e-10
    )
    np.testing.assert_allclose(central.predicted_again, central.predicted_loss, rtol=1e-10)
    # A linear function is predicted to be what it is.
    for process in ("stable", "central"):
        plain, predicted = (of_kind(result, process, k) for k in ("weight", "predicted_weight"))
        np.testing.assert_allclose(predicted, plain, rtol=0, atol=1e-15)
    # The mean over the two phases w ± δ of the one oscillating direction, to O(δ⁴).
    last = central.iloc[-1]
    x, y = of_kind(result, "central", "weight").iloc[-1]
    delta = np.sqrt(last.sigma_trace)
    phases = (np.cos(x + delta) + np.cos(x - delta)) / 2 + np.cos(y)
    assert abs(last.predicted_cosine - phases) < delta**4 / 12 < abs(last.cosine - phases) / 50


def test_columns_and_kinds_tell_their_unit_and_meaning():
    simulation = Simulation(valley(), optax.sgd(LR), steps=2, measurements=(Mine(), Distances()))
    columns = {c.name: c for c in simulation.columns}
    assert columns["half_norm"].unit == "weight²" and "half_norm" in columns["predicted_half_norm"].meaning
    assert {"distance_to_midpoint", "distance_to_stable", "distance_to_central"} <= set(columns)
    assert simulation.kinds["weight"] == "each weight" and "predicted_weight" in simulation.kinds


def test_what_is_not_chosen_costs_nothing_and_what_is_costs_what_it_says():
    plain, smooth = at_the_edge(), at_the_edge(StepSmoothness(every=10), Sharpening(every=20))
    for process, hvps, thirds in (
        ("discrete", 6, 3),
        ("midpoint", 0, 3),
        ("stable", 0, 3),
        ("central", 0, 3),
    ):
        assert smooth.counts[process]["hvps"] - plain.counts[process]["hvps"] == hvps
        # Midpoints begin at step 1, and have none at step 0.
        more = smooth.counts[process]["third_derivatives"] - plain.counts[process]["third_derivatives"]
        assert more == thirds - (process == "midpoint")
    assert "step_smoothness" not in plain.metrics and "sharpness" not in plain.metrics
    for name in ("loss", "effective_sharpness", "x_trace"):
        np.testing.assert_array_equal(plain.metrics[name], smooth.metrics[name])


def test_a_run_goes_on_with_the_memories_of_its_measurements():
    measured = (LayerSharpness(every=2), SecondMoment(watch=2), Distances(every=3))
    problem = valley()
    settings = {"steps": 14, "processes": ["discrete", "midpoint"], "measurements": measured}
    whole = simulate(problem, optax.rmsprop(0.005), **settings)
    first = Simulation(problem, optax.rmsprop(0.005), chunk=4, **settings)
    for chunk in first:
        if chunk.step >= 7:
            break
    again = Simulation(problem, optax.rmsprop(0.005), chunk=5, **settings)
    again.restore(first.snapshot())
    for _ in again:
        pass
    for name in ("metrics", "eigenvalues"):
        parts = [getattr(simulation, name) for simulation in (first, again)]
        own = getattr(whole, name)
        keys = [c for c in ("step", "process", "kind", "index") if c in own]
        table, own = (t.sort_values(keys, ignore_index=True) for t in (pd.concat(parts), own))
        pd.testing.assert_frame_equal(table, own, check_exact=True)


@pytest.mark.parametrize("name", sorted(tree.groups()["measurements"]))
def test_every_measurement_has_a_module_of_its_name(name):
    node = tree.read_choice(tree.groups()["measurements"][name], "measurements")
    defaults = BUILT_IN[name]()
    assert BUILT_IN[name].__module__ == f"cflow_cli.measurements.{name}"
    keys = {key.removeprefix(f"measurements.{name}."): value for key, value in node.keys.items()}
    assert keys == {key: getattr(defaults, key) for key in vars(defaults)} and node.summary


def test_what_cannot_be_measured_is_said():
    with pytest.raises(ValueError, match="every must be at least 1"):
        Outputs(every=0)
    with pytest.raises(ValueError, match="none negative"):
        Coordinates(watch=[1, -2])
    with pytest.raises(UserError, match="must name weights by their indices"):
        simulate(valley(), optax.sgd(LR), steps=1, measurements=(Coordinates(watch=[5]),))
    with pytest.raises(UserError, match="unknown measurement 'outptus'; choose from evaluation,"):
        simulate(valley(), optax.sgd(LR), steps=1, measurements=["outptus"])
    with pytest.raises(UserError, match="must name each once"):
        simulate(valley(), optax.sgd(LR), steps=1, measurements=(Outputs(), Outputs(train=3)))


@dataclass(frozen=True)
class Undeclared(Measurement):
    """Gives what it does not announce."""

    every: int = 1
    number: bool = True
    name: ClassVar[str] = "undeclared"

    def value(self, problem, w):
        return {"surprise": w @ w if self.number else w}


@pytest.mark.parametrize(
    ("number", "words"), [(True, "the number 'surprise', which"), (False, r"of shape \(2,\)")]
)
def test_what_no_column_is_there_for_is_refused_instead_of_lost(number, words):
    with pytest.raises(UserError, match=words):
        simulate(
            valley(),
            optax.sgd(LR),
            processes=["discrete"],
            steps=1,
            measurements=(Undeclared(number=number),),
        )


def test_compared_columns_stand_at_the_step_of_the_comparison_only():
    """A process whose block grew comes in several parts."""
    schema = measuring.schema([Central()], [Distances()])
    recorder = Recorder(schema, {}, None)

    def part(steps):
        steps = np.asarray(steps)
        whole = dict.fromkeys(("status", "num_critical", "num_tracked"), np.zeros(len(steps), np.int32))
        return {"step": steps, "loss": 1.0 * steps, "effective_sharpness": 1.0 * steps, **whole}

    parts = [("central", part([10, 11])), ("central", part([12, 13]))]
    table = recorder.chunk(10, 14, parts, {"central": {"distance_to_central": np.asarray(7.0)}}).metrics
    np.testing.assert_array_equal(table["distance_to_central"], [7.0, np.nan, np.nan, np.nan])


# --- each --------------------------------------------------------------------------------------------


def test_outputs_of_training_and_test_examples():
    problem = tiny()
    measured = (Outputs(train=2, test=1),)
    result = simulate(problem, optax.sgd(0.1), processes=["discrete"], steps=1, measurements=measured)
    for kind, count, x in (("output", 2, problem.objective.x), ("test_output", 1, problem.objective.x_test)):
        wanted = problem.objective.apply(problem.w0, x[:count])
        np.testing.assert_allclose(of_kind(result, "discrete", kind).iloc[0], wanted.ravel(), rtol=1e-12)
    without = simulate(valley(), optax.sgd(0.1), processes=["discrete"], steps=1, measurements=measured)
    assert set(without.eigenvalues.kind) == {"effective"}


def test_second_moment_is_that_of_a_plain_optax_loop():
    problem = Problem.from_function(toys.network, toys.start())
    optimizer, steps = optax.adam(0.01), 6
    w, state = problem.w0, optimizer.init(problem.w0)
    norms, some = [], []
    for _ in range(steps):
        norms.append(float(jnp.linalg.norm(state[0].nu)))
        some.append(np.asarray(state[0].nu)[[3, 70]])
        delta, state = optimizer.update(jax.grad(toys.network)(w), state, w)
        w = optax.apply_updates(w, delta)
    result = simulate(
        problem,
        optimizer,
        processes=["discrete", "central"],
        steps=steps,
        warm_start=2,
        kick=0.0,
        measurements=(SecondMoment(watch=[3, 70]),),
    )
    for process in ("discrete", "central"):  # below the edge the flow is the optimizer
        own = rows(result, process)
        np.testing.assert_allclose(own.second_moment_norm, np.asarray(norms)[own.index], rtol=1e-9)
        np.testing.assert_allclose(
            of_kind(result, process, "second_moment"), np.asarray(some)[own.index], rtol=1e-9
        )
    central = rows(result, "central")
    assert central.predicted_second_moment_norm.equals(
        central.second_moment_norm.rename("predicted_second_moment_norm")
    )
    none = simulate(problem, optax.sgd(0.1), processes=["discrete"], steps=1, measurements=(SecondMoment(),))
    assert none.metrics.second_moment_norm.isna().all()


def test_distances_between_any_two_processes():
    simulation = Simulation(valley(), optax.sgd(LR), steps=50, eigs=EXACT, measurements=(Distances(every=7),))
    weights = {}
    for chunk in simulation:
        weights[chunk.step] = simulation.weights()
    metrics = simulation.metrics
    for step in (7, 42):
        here = metrics[metrics.step == step].set_index("process")
        w = weights[step]
        for p, q in (("discrete", "central"), ("stable", "central"), ("central", "stable")):
            assert here.loc[p, f"distance_to_{q}"] == pytest.approx(np.linalg.norm(w[p] - w[q]), rel=1e-12)
        assert np.isnan(here.loc["stable", "distance_to_stable"])
        assert here.loc["central", "distance_to_midpoint"] == here.loc["midpoint", "distance_to_central"] > 0
    assert metrics[metrics.step % 7 > 0].distance_to_central.isna().all()


@pytest.mark.parametrize("momentum", [None, 0.5])
def test_step_smoothness_is_two_at_the_edge_with_or_without_momentum(momentum):
    eigenvalues = jnp.asarray([3.0, 1.0])
    problem = Problem.from_function(lambda w: 0.5 * jnp.sum(eigenvalues * w**2), jnp.asarray([1.0, 1.0]))
    threshold = 2 * (1 + (momentum or 0)) / 3.0
    for rate, edge in ((threshold, True), (0.3 * threshold, False)):
        result = simulate(
            problem,
            optax.sgd(rate, momentum=momentum),
            processes=["discrete"],
            steps=120,
            kick=0.0,
            measurements=(StepSmoothness(),),
        )
        seen = result.metrics.step_smoothness.iloc[-1]
        assert seen == pytest.approx(2, abs=1e-6) if edge else seen < 1
    # Below the edge, one step of gradient descent against the formula.
    g = np.asarray([3.0, 1.0])
    if momentum is None:
        first = result.metrics.step_smoothness.iloc[0]
        assert first == pytest.approx(
            0.3 * threshold * (g @ (np.asarray(eigenvalues) * g)) / (g @ g), rel=1e-12
        )


def test_the_singular_values_of_the_step_are_those_of_the_largest_matrix():
    problem = tiny()
    result = simulate(
        problem,
        optax.sgd(0.1),
        steps=2,
        processes=["discrete"],
        kick=0.0,
        measurements=(StepSingularValues(1),),
    )
    step = -0.1 * problem.gradient(problem.w0)
    expected = np.linalg.svd(max(problem.matrices(step), key=np.size), compute_uv=False)
    np.testing.assert_allclose(
        of_kind(result, "discrete", "step_singular_value").loc[0], expected, rtol=1e-10
    )
    with pytest.raises(UserError, match="needs a matrix"):
        simulate(
            valley(), optax.sgd(0.1), steps=2, processes=["discrete"], measurements=(StepSingularValues(),)
        )


def test_layer_sharpness_is_that_of_the_diagonal_blocks():
    problem = tiny()
    measured = (LayerSharpness(every=1, tolerance=1e-8, max_iterations=300),)
    result = simulate(problem, optax.sgd(0.1), processes=["discrete"], steps=2, measurements=measured)
    h = np.asarray(jax.hessian(problem.loss)(problem.w0))
    sizes = [size for _, size in problem.layers]
    assert len(sizes) == 2 and sum(sizes) == problem.num_parameters  # two layers, weight and bias together
    ends = np.cumsum([0, *sizes])
    dense = [np.linalg.eigvalsh(h[a:b, a:b])[-1] for a, b in itertools.pairwise(ends)]
    np.testing.assert_allclose(of_kind(result, "discrete", "layer_sharpness").loc[0], dense, rtol=1e-10)


def test_spectrum_is_a_quadrature_for_the_eigenvalues():
    problem = Problem.from_function(toys.network, toys.start())
    n = problem.num_parameters
    measured = (Spectrum(every=1, lanczos_steps=n, probes=3),)
    result = simulate(problem, optax.sgd(0.1), processes=["discrete"], steps=1, measurements=measured)
    nodes, weights = (
        of_kind(result, "discrete", f"spectrum_{k}").loc[0].to_numpy() for k in ("node", "weight")
    )
    h = np.asarray(jax.hessian(toys.network)(problem.w0))
    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    probes = np.stack([jax.random.rademacher(k, (n,), problem.w0.dtype) for k in keys])
    assert weights.sum() == pytest.approx(1, rel=1e-10) and (weights >= 0).all()
    for power in (1, 2, 5):  # Gauss quadrature with as many nodes as there are eigenvalues is exact
        wanted = np.mean([p @ np.linalg.matrix_power(h, power) @ p for p in probes]) / n
        assert weights @ nodes**power == pytest.approx(wanted, rel=1e-8)
    assert nodes.max() == pytest.approx(np.linalg.eigvalsh(h)[-1], rel=1e-8)


def test_sharpening_is_split_into_the_flows_smooth_part_and_the_oscillations():
    result = at_the_edge(Sharpening(every=1), processes=("midpoint", "stable", "central"), steps=100)
    rate = LR * B * LR * C  # of η(a + by) along y' = ηc
    stable, central = rows(result, "stable"), rows(result, "central")
    np.testing.assert_allclose(stable.sharpening_smooth, rate, rtol=1e-3)
    # Below the edge; above it the stable flow's own step is damped, so that it does not overshoot.
    np.testing.assert_allclose(stable.sharpening_oscillation.loc[:15], 0, atol=1e-15)
    before, edge = central.loc[:15], central.loc[60:]
    np.testing.assert_allclose(before.sharpening, rate, rtol=1e-3)
    np.testing.assert_allclose(np.diff(before.effective_sharpness), before.sharpening[:-1], rtol=1e-3)
    # At the edge the oscillation takes away what the gradient adds.
    np.testing.assert_allclose(edge.sharpening_smooth, rate, rtol=1e-3)
    np.testing.assert_allclose(edge.sharpening_oscillation, -rate, rtol=1e-2)
