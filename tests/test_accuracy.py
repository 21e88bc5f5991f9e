"""The short form of the accuracy benchmark, and its table; tests/test_simulation.py has a shorter one."""

import numpy as np
import pytest

from benchmarks import accuracy

pytestmark = pytest.mark.optimised


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gd", "rmsprop", "nadam"])
def test_the_central_flow_meets_its_targets_on_the_digits(name):
    found = accuracy.run(name, "digits", 0, None)
    assert found["flows"]["central"]["critical"] >= 2
    assert found["flows"]["central"]["correlation"] > 0.5
    line = next(x for x in accuracy.table([found]).splitlines() if x.startswith(f"| {name}"))
    assert line.endswith("| PASS |")


def test_the_table_is_of_medians_over_seeds_and_says_what_is_missed():
    figures = dict.fromkeys(accuracy.COLUMNS, 1.0) | {"S flow": 2.01, "distance ratio": 0.2, "edge": np.nan}
    runs = [
        {
            "optimizer": "gd",
            "problem": "digits",
            "seed": seed,
            "lr": 0.2,
            "flows": {flow: figures | {"loss error": error} for flow in accuracy.FLOWS},
        }
        for seed, error in enumerate((1.0, 4.0, 5.0))
    ]
    table = accuracy.table(runs)
    assert "| 4.0 % |" in table and "| miss: loss |" in table
    assert "PASS" in accuracy.table(runs[:1])
