"""Small losses that several tests take to the edge of stability, flows stepped by hand on them, and a run without any."""

from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cflow_cli import Problem, records
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.engine.snapshot import Snapshot
from cflow_cli.flows.base import FlowState
from cflow_cli.optimizers import UpdateMap

# One object for all tests: programs are shared by those with the same optimizer, loss and options.
RMSPROP = optax.rmsprop(0.02, decay=0.95, eps_in_sqrt=False)


def valley(a, b, c):
    """L = ½(a + b y)x² − c y: the sharpness a + b y rises at the rate ηbc until it meets 2/η.

    There the average of S stays at 2/η, with a variance σ² = 2⟨−∇L, ∇S⟩/‖∇S‖² = 2c/b of x.
    """
    return lambda w: 0.5 * (a + b * w[1]) * w[0] ** 2 - c * w[1]


def network(w):
    """Loss of a 4-6-6-2 tanh network on fixed data, w of length 86, with several critical directions at lr 1."""
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.standard_normal((12, m)), w.dtype) for m in (4, 2))
    h = jnp.tanh(x @ w[:24].reshape(4, 6) + w[24:30])
    h = jnp.tanh(h @ w[30:66].reshape(6, 6) + w[66:72])
    return 0.5 * jnp.mean(jnp.sum((h @ w[72:84].reshape(6, 2) + w[84:86] - y) ** 2, axis=1))


def start(scale=0.5):
    """Weights for the network."""
    return jnp.asarray(scale * np.random.default_rng(3).standard_normal(86))


def columns(result, process, *names):
    """Columns of the metrics of one process."""
    rows = result.metrics[result.metrics.process == process]
    return [rows[name].to_numpy() for name in names]


@eqx.filter_jit
def stepped(stepper, problem, state, count):
    """State after so many steps of a flow, with its counters standing still."""
    return jax.lax.fori_loop(0, count, lambda _, s: stepper(problem, s, s.optimizer, 10)[0], state)


def by_hand(flow, optimizer, loss, w, **memory):
    """Steps of a flow as a function of its state and their number, and its state at w, which tracks everything."""
    update, rows = UpdateMap.of(optimizer, w), jnp.eye(len(w))
    stepper, problem = flow.stepper(update, EigsOptions()), Problem.from_function(loss, w)
    state = FlowState(
        w, update.init(w), rows, jnp.zeros_like(rows), jnp.asarray(True), stepper.start(w, len(rows))
    )
    return lambda state, count: stepped(stepper, problem, state, jnp.asarray(count)), state._replace(**memory)


class Simulated:
    """Stands in for a simulation: three chunks of two steps, with something happening before the third."""

    def __init__(self, event):
        self.event = event
        self.warm_start, self.counts, self.step, self.steps = 0, {}, 0, 6
        self.statuses = {"discrete": {"status": "ok", "step": None, "steps_with": {}, "sentence": ""}}
        self.problem = SimpleNamespace(num_parameters=1, layers=(("weights", 1),))
        self.optimizer = SimpleNamespace(refusal="nothing is optimised here")
        self.memory = None
        self.columns, self.kinds = records.METRICS, records.KINDS

    def snapshot(self):
        return Snapshot({"step": self.step}, {})

    def restore(self, snapshot):
        self.step = snapshot.header["step"]

    def __iter__(self):
        for first in range(self.step, 6, 2):
            if first == 4:
                self.event()
            step = np.arange(first, first + 2)
            values = {
                "step": step,
                "process": np.full(2, "discrete", object),
                "status": np.full(2, "ok", object),
                "loss": 1.0 / (1 + step),
            }
            metrics = {c.name: values.get(c.name, np.full(2, np.nan)) for c in records.METRICS}
            eigenvalues = {
                c.name: np.zeros(0, object if c.type == "string" else float) for c in records.EIGENVALUES
            }
            self.step = first + 2
            yield SimpleNamespace(
                step=self.step,
                metrics=metrics,
                eigenvalues=eigenvalues,
                loss={"discrete": 1.0},
                effective_sharpness={"discrete": 2.0},
                num_critical=1,
                messages=["something happened"] if first == 0 else [],
            )
