"""The accuracy study in short forms, and its table; tests/test_simulation.py has a shorter one."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from benchmarks import accuracy, accuracy_cases, accuracy_rates
from cflow_cli import Problem
from cflow_cli.datasets.digits import digits
from cflow_cli.engine.simulation import Simulation
from cflow_cli.models.mlp import MLP

pytestmark = pytest.mark.optimised


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gd", "rmsprop", "nadam"])
def test_the_flows_meet_their_targets_on_the_digits(name):
    found = accuracy.run(name, "digits", 0, None)
    assert found["flows"]["central"]["critical"] >= 2
    assert found["flows"]["central"]["correlation"] > 0.5
    line = next(x for x in accuracy.table([found]).splitlines() if x.startswith(f"| {name}"))
    assert line.endswith("| PASS |")


def made(errors, name="gd", flows=("central", "stable"), **figures):
    usual = dict.fromkeys(accuracy.COLUMNS, 0.05) | {"S flow": 2.01, "edge": np.nan}
    return [
        {
            "optimizer": name,
            "problem": "digits",
            "seed": seed,
            "lr": 0.2,
            "flows": {flow: usual | figures | {"loss error": error} for flow in flows},
            "yardstick": {"floor": 0.2, "pair": 0.3},
        }
        for seed, error in enumerate(errors)
    ]


def test_the_table_is_of_medians_over_seeds_and_says_what_is_missed():
    table = accuracy.table(made((0.5, 4.0, 5.0)))
    assert "| 4.0 % |" in table and "| miss: loss |" in table
    assert "| central (1) |" in accuracy.table(made((0.5,))) and "PASS" in accuracy.table(made((0.5,)))


@pytest.mark.parametrize(
    ("flow", "name", "ratio", "floor", "passes"),
    [
        ("central", "gd", 0.34, 0.2, True),  # floor taken off
        ("central", "gd", 0.34, 0.09, False),  # it is below 0.1
        ("two_phase", "gd", 0.22, 0.2, True),
        ("two_phase", "gd", 0.24, 0.2, False),
        ("two_phase", "momentum_0.5", 0.34, 0.2, True),  # pair is 0.3
        ("two_phase", "momentum_0.5", 0.36, 0.2, False),
    ],
)
def test_a_distance_is_judged_by_what_can_be_reached(flow, name, ratio, floor, passes):
    (run,) = made((0.5,), name, (flow,), **{"distance ratio": ratio})
    run["yardstick"]["floor"] = floor
    assert ("miss: distance" not in accuracy.table([run])) == passes


def test_a_file_is_completed_by_the_flows_that_it_lacks(tmp_path):
    path = tmp_path / "digits_gd_0.json"
    own = {"complaints": {}, "seconds": 1.0}
    path.write_text(json.dumps({"flows": {"central": {"edge": 1}, "stable": {"edge": 2}}, **own}))
    asked = []

    def make(flows):
        asked.append(flows)
        return {"flows": {flow: {"edge": 7} for flow in (*flows, "stable")}, "yardstick": {}, **own}

    both = accuracy.completed(path, ("central", "two_phase"), make)
    assert asked == [["two_phase"]]
    assert {k: v["edge"] for k, v in both["flows"].items()} == {"central": 1, "stable": 2, "two_phase": 7}
    assert accuracy.completed(path, ("central", "two_phase"), make) is None


def test_the_gap_of_s_eff_is_between_means_over_steps_that_both_have():
    flow = pd.Series(2.0, index=range(100))
    middle = pd.Series(2.1 + 0.5 * (-1.0) ** np.arange(25), index=range(0, 100, 4))
    assert accuracy._gap(flow, middle, 20) == pytest.approx(0.1, abs=0.05)
    assert np.isnan(accuracy._gap(flow, middle, 100))


def test_runs_with_other_kicks_are_those_of_a_simulation_with_that_kick_seed():
    own = accuracy_cases.problem("digits", 0, None)
    transformation = accuracy_cases.optimizer("gd", 0.2)
    simulation = Simulation(
        own, transformation, steps=6, kick=accuracy_cases.KICK, kick_seed=3, processes=("discrete",)
    )
    _, path = simulation.take_path(6, 6)
    one, other = accuracy.kicked(own, transformation, 6, [3, 4])
    np.testing.assert_array_equal(one, path.weights[1:])
    assert 1e-4 < np.linalg.norm(other[-1] - one[-1]) < 1e-1


def test_the_rule_counts_eigenvalues_that_are_critical_at_two_looks_in_a_row():
    looks = [np.array(x) for x in ([2.5, 1.0], [2.0, 1.97], [1.96, 1.0], [2.1, 2.0], [2.0, 2.0])]
    assert accuracy_rates.critical(iter(looks)) == 2
    assert accuracy_rates.critical(iter(looks[:4])) == 1


@pytest.mark.slow
def test_the_eigenvalues_of_the_rule_are_those_of_dh():
    data = digits(n=20)
    model = MLP(data, jax.random.PRNGKey(0), widths=[4])
    own = Problem.from_model(model, data, accuracy_cases.LOSS, jnp.float64)
    case = accuracy_cases.CASES["normalised_gd"]
    path = accuracy_rates.paths(case, own, 3)(jnp.asarray(0.3))
    (found,) = accuracy_rates.spectra(case, own)(0.3, path)
    w, g = path[1], path[2][1]
    hessian = jax.hessian(own.loss)((w[0] + 2 * w[1] + w[2]) / 4)
    expected = 0.3 / jnp.linalg.norm(g) * jnp.linalg.eigvalsh(hessian)[::-1][: len(found)]
    np.testing.assert_allclose(found, expected, rtol=1e-2)
