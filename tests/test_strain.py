"""Flows that divide their steps where they do not hold S_eff at 2."""

from dataclasses import dataclass

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from cflow_cli import Problem
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.engine.simulation import Simulation
from cflow_cli.flows.base import linearise
from cflow_cli.flows.options import Flow
from cflow_cli.optimizers import UpdateMap

GD = optax.sgd(0.5)


class Missing(eqx.Module):
    """Ends each step at S_eff = 2 + ``by`` dt + ``always``, on a loss whose S_eff is 0.5 (1 + w₁)."""

    optimizer: UpdateMap
    eigs: EigsOptions = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    by: float = eqx.field(static=True)
    always: float = eqx.field(static=True)

    def start(self, weights, block):
        return ()

    def __call__(self, problem, state, counters, iterations):
        here = linearise(self.optimizer, self.eigs, problem, state, counters, iterations)
        end = 2 + self.by * self.dt + self.always
        new = state._replace(weights=state.weights.at[1].set(end / 0.5 - 1), vectors=here.pairs.ahead)
        return new, here.info()


@dataclass(frozen=True)
class Missed(Flow):
    """Its options."""

    name = "missed"
    holds_the_edge = True
    by: float = 0.0
    always: float = 0.0

    def stepper(self, optimizer, eigs):
        return Missing(optimizer, eigs, 1 / self.substeps, self.by, self.always)


def simulation(**options):
    problem = Problem.from_function(lambda w: 0.5 * (1 + w[1]) * w[0] ** 2, jnp.array([0.0, 3.0]))
    settings = {"steps": 40, "kick": 0.0, "measurements": (), "processes": [Missed(**options)]}
    return Simulation(problem, GD, **settings)


def run(sim, until=40):
    messages = []
    for chunk in sim:
        messages += chunk.messages
        if chunk.step >= until:
            break
    return messages


def test_steps_that_miss_the_edge_are_divided_until_they_hold_it():
    whole = simulation(by=0.16)
    messages = run(whole)
    rows = whole.metrics
    # It starts at 2 and misses by 0.16 at steps 1 and 2, by 0.08 at 5 and 6 (down from 2.16 to 2.08 is no miss), and by
    # 0.04, which holds, from then on.
    assert rows.substeps.tolist() == [1] * 3 + [2] * 4 + [4] * 33
    np.testing.assert_allclose(rows.effective_sharpness, [2] + [2.16] * 3 + [2.08] * 4 + [2.04] * 32)
    assert rows.status[rows.status != "ok"].tolist() == ["off_the_edge"] * 2
    assert whole.counts["missed"]["gradients"] == rows.substeps.sum()
    assert messages == [
        "missed: curvature changes too much in one step to hold S_eff at 2; 2 sub-steps per step from step 3 on",
        "missed: curvature changes too much in one step to hold S_eff at 2; 4 sub-steps per step from step 7 on",
    ]
    # A run that goes on from a checkpoint takes the sub-steps that it had come to.
    begun, again = simulation(by=0.16), simulation(by=0.16)
    run(begun, until=5)
    again.restore(begun.snapshot())
    run(again)
    later = again.metrics
    pd.testing.assert_frame_equal(later, rows[rows.step >= later.step.min()].reset_index(drop=True))


def test_steps_are_divided_by_eight_at_most_and_the_record_says_where_that_was_not_enough():
    sim = simulation(always=0.2)
    run(sim)
    rows = sim.metrics
    assert rows.substeps.unique().tolist() == [1, 2, 4, 8]
    assert (rows[rows.substeps == 8].iloc[2:].status == "off_the_edge").all()
    assert sim.statuses["missed"]["status"] == "off_the_edge"
    assert "processes.central.substeps=8" in sim.statuses["missed"]["sentence"]
