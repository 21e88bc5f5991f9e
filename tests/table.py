"""Flows and optimizers, and which go together: the rows and columns of tests/test_flows.py.

A flow or an optimizer of one's own is checked like those of the package once it has a line here.
"""

import re
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from cflow_cli import Problem
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.flows.options import Ablated, Central, Edge, Flow, Rod, Stable, Stationary, TwoPhase
from cflow_cli.optimizers import adam_uncorrected, scalar_adam, scalar_rmsprop, with_weight_decay

STEPS, JUMP = 14, 10
TOP = 3.0
# Room for one direction beside the guard at first, so that two at the edge need a larger block.
EIGS = EigsOptions(block=2, max_tracked=4, tolerance=1e-4, max_iterations=20)


def loss(w):
    """Two quadratic directions, of sharpness 3 and 2.98, beside four coupled ones whose curvature is below 1."""
    rest = w[2:]
    return (
        0.5 * (TOP * w[0] ** 2 + 2.98 * w[1] ** 2) + 0.2 * jnp.sum(jnp.tanh(rest) ** 2) + 0.1 * jnp.prod(rest)
    )


@cache
def problem() -> Problem:
    """Made when it is asked for: precision is set by then."""
    return Problem.from_function(loss, jnp.asarray(np.linspace(0.4, 0.9, 6)))


@dataclass(frozen=True)
class OptimizerRow:
    """An optimizer as a function of its learning rate, and what is known about it.

    Parameters
    ----------
    build
        Learning rate ↦ optax object.
    rate
        A rate at which every flow stays below the edge; it doubles at step 10.
    edge
        The edge of stability is at rate · sharpness = ``edge``; None where D depends on the gradients.
    """

    build: Callable[[Any], optax.GradientTransformation]
    rate: float = 1e-3
    edge: float | None = None

    def schedule(self, times: float = 1) -> Any:
        """The learning rate as a function of the step, so many times as large as stated."""
        return optax.piecewise_constant_schedule(times * self.rate, {JUMP: 2.0})


OPTIMIZERS = {
    # From step 10 on both directions are near the edge, at 1.86 and 1.85.
    "gd": OptimizerRow(optax.sgd, 0.31, 2),
    "momentum": OptimizerRow(lambda lr: optax.sgd(lr, momentum=0.9), 0.3, 3.8),
    "nesterov": OptimizerRow(lambda lr: optax.sgd(lr, momentum=0.9, nesterov=True), 0.1, 2 * 1.9 / 2.8),
    "rmsprop": OptimizerRow(
        lambda lr: optax.rmsprop(lr, decay=0.95, eps_in_sqrt=False, bias_correction=True)
    ),
    "scalar_rmsprop": OptimizerRow(lambda lr: scalar_rmsprop(lr, b2=0.95)),
    "adam": OptimizerRow(lambda lr: optax.adam(lr, b2=0.99)),
    "adamw": OptimizerRow(lambda lr: optax.adamw(lr, b2=0.99, weight_decay=0.1)),
    "nadam": OptimizerRow(lambda lr: optax.nadam(lr, b2=0.99)),
    "adagrad": OptimizerRow(optax.adagrad),
    "adabelief": OptimizerRow(lambda lr: optax.adabelief(lr, b2=0.99)),
    "amsgrad": OptimizerRow(lambda lr: optax.amsgrad(lr, b2=0.99)),
    "adam_uncorrected": OptimizerRow(lambda lr: adam_uncorrected(lr, b2=0.99)),
    "scalar_adam": OptimizerRow(lambda lr: scalar_adam(lr, b2=0.99)),
    "decayed": OptimizerRow(lambda lr: with_weight_decay(optax.rmsprop(lr, eps_in_sqrt=False), lr, 0.1)),
    "yogi": OptimizerRow(optax.yogi),
}
# Those that are not elementwise: tests/test_operator_map.py and tests/test_operator_flow.py.
OPERATORS = (
    "adafactor",
    "clipped",
    "lamb",
    "lars",
    "muon",
    "muon_smoothed",
    "normalised_gd",
    "shampoo",
    "soap",
)
UNIFORM = ("gd", "momentum", "nesterov")


def tutorial() -> Flow:
    """The flow that docs/extending.md writes, taken from the page."""
    page = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"^`my_flows\.py`:\n\n```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    sys.modules["my_flows"] = module = types.ModuleType("my_flows")
    exec(compile(source, "docs/extending.md", "exec"), module.__dict__)
    return module.Modified()


@dataclass(frozen=True)
class FlowRow:
    """A flow, the optimizers that it is stepped with, and those that it refuses.

    Parameters
    ----------
    flow
        Its options.
    short
        Optimizers that `make test` steps it with; `make check` takes all that it does not refuse.
    refused
        By name of the optimizer, words of the sentence that says why.
    is_optimizer
        Whether below the edge its steps are the optimizer's own.
    grows
        Optimizer, and how many times its rate, with which it needs a larger block; None where it never does.
    times
        How many times the optimizers' rates it is run with elsewhere.
    """

    flow: Flow
    short: tuple[str, ...]
    refused: dict[str, str]
    is_optimizer: bool = False
    grows: tuple[str, float] | None = None
    times: float = 1


def all_but(*names: str) -> list[str]:
    return [name for name in OPTIMIZERS if name not in names]


SHRINKS = {"yogi": "shrinks its second moment"}
SHORT = ("gd", "momentum", "adam")
FLOWS = {
    "stable": FlowRow(Stable(), SHORT, {}, is_optimizer=True),
    "central": FlowRow(Central(), SHORT, SHRINKS, is_optimizer=True, grows=("gd", 1)),
    "ablated": FlowRow(
        Ablated(),
        ("rmsprop",),
        SHRINKS | dict.fromkeys(UNIFORM, "without second moments"),
        grows=("rmsprop", 155),
        times=155,
    ),
    "stationary": FlowRow(
        Stationary(rank=3),
        ("rmsprop",),
        dict.fromkeys(all_but("rmsprop", "decayed"), "known for RMSProp"),
        grows=("rmsprop", 40),
    ),
    "rod": FlowRow(Rod(), ("gd",), {}, grows=("gd", 1)),
    "edge": FlowRow(Edge(), ("gd",), dict.fromkeys(all_but("gd"), "gradient descent only"), grows=("gd", 1)),
    "two_phase": FlowRow(TwoPhase(), SHORT, {}, is_optimizer=True, grows=("gd", 1)),
    "modified": FlowRow(tutorial(), ("gd",), {}),
}
