"""What the accuracy study is of: problems, optimizers with their learning rates, and targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

from cflow_cli import Problem  # noqa: E402
from cflow_cli.datasets.cifar10 import cifar10  # noqa: E402
from cflow_cli.datasets.digits import digits  # noqa: E402
from cflow_cli.datasets.sorting import sorting  # noqa: E402
from cflow_cli.losses import mse  # noqa: E402
from cflow_cli.models.cnn import CNN  # noqa: E402
from cflow_cli.models.mlp import MLP  # noqa: E402
from cflow_cli.models.transformer import Transformer  # noqa: E402
from cflow_cli.optimizers import (  # noqa: E402
    adam_uncorrected,
    clipped,
    normalised_gd,
    scalar_adam,
    scalar_rmsprop,
    shampoo,
)

KICK = 1e-3
SEEDS = 3
PROBLEMS = ("digits", "cifar10", "sorting")

TARGETS = {"elementwise": (0.25, 1.0), "momentum": (0.25, 10.0), "norm": (0.06, 2.5), "layer": (0.2, 2.0)}
"""For the central flow of each kind: distance, the floor taken off where that is above 0.1, and loss error in per cent.

``norm``: functions of norms, and LAMB; ``layer``: what looks at the rows and columns of a matrix, and LARS.
"""

NEAR_FLOOR, NEAR_PAIR, NEAR_EDGE = 0.03, 0.05, 0.1
"""For the two-phase flow: distance above the floor, with momentum above another run, and S_eff off the midpoints'."""


class Case(NamedTuple):
    """One optimizer.

    Parameters
    ----------
    build
        Learning rate -> optax object.
    on
        Problem -> learning rate and steps; a problem is missing where no rate brings the optimizer to the edge before
        its training is over, or where none was chosen yet; it then runs at a rate that is given.
    warm_start
        Steps before the flows branch off.
    kind
        Whose :data:`TARGETS`: elementwise (without momentum, or with second moments), momentum, norm or layer.
    others
        Flows to ask for by name.
    """

    build: Callable[[Any], Any]
    on: Mapping[str, tuple[float, int]]
    warm_start: int = 0
    kind: str = "elementwise"
    others: tuple[str, ...] = ()

    @property
    def flows(self) -> tuple[str, ...]:
        """Those that are run unless others are asked for: the two-phase flow is one of elementwise optimizers."""
        both = ("central", "stable")
        return (*both, "two_phase") if self.kind in ("elementwise", "momentum") else both


def _rmsprop(lr: Any) -> Any:
    return optax.rmsprop(lr, decay=0.99, eps=1e-8, eps_in_sqrt=False, bias_correction=True)


def _adafactor(lr: Any) -> Any:
    return optax.adafactor(lr, min_dim_size_to_factor=2, multiply_by_parameter_scale=False)


def _momentum(beta: float, nesterov: bool = False) -> Callable[[Any], Any]:
    return partial(optax.sgd, momentum=beta, nesterov=nesterov)


CASES = {
    "gd": Case(optax.sgd, {"digits": (0.2, 400), "cifar10": (0.4, 400)}, others=("rod",)),
    "momentum": Case(_momentum(0.9), {"cifar10": (0.02, 800)}, kind="momentum"),
    "momentum_0.5": Case(_momentum(0.5), {"digits": (0.3, 400), "cifar10": (0.4, 400)}, kind="momentum"),
    "nesterov": Case(_momentum(0.9, True), {"digits": (0.15, 400), "cifar10": (0.02, 600)}, kind="momentum"),
    "nesterov_0.5": Case(
        _momentum(0.5, True), {"digits": (0.15, 400), "cifar10": (0.2, 400)}, kind="momentum"
    ),
    "scalar_rmsprop": Case(
        lambda lr: scalar_rmsprop(lr, bias_correction=True),
        {"digits": (0.05, 400), "cifar10": (0.08, 400)},
        5,
    ),
    "rmsprop": Case(
        _rmsprop, {"digits": (0.001, 400), "cifar10": (0.001, 400)}, 20, others=("ablated", "rod")
    ),
    "adam": Case(
        lambda lr: optax.adam(lr, b2=0.99),
        {"digits": (0.003, 500), "cifar10": (0.001, 400)},
        10,
        others=("ablated", "rod"),
    ),
    "adamw": Case(
        lambda lr: optax.adamw(lr, b2=0.99, weight_decay=1e-2),
        {"digits": (0.003, 500), "cifar10": (0.001, 400)},
        10,
    ),
    "nadam": Case(lambda lr: optax.nadam(lr, b2=0.99), {"digits": (0.001, 400), "cifar10": (0.001, 400)}, 10),
    "adabelief": Case(
        lambda lr: optax.adabelief(lr, b2=0.99), {"digits": (0.003, 500), "cifar10": (0.001, 400)}, 10
    ),
    "adagrad": Case(
        lambda lr: optax.adagrad(lr, initial_accumulator_value=0.0),
        {"digits": (0.02, 400), "cifar10": (0.05, 400)},
        5,
    ),
    "scalar_adam": Case(
        lambda lr: scalar_adam(lr, b2=0.99), {"digits": (0.4, 500), "cifar10": (0.2, 400)}, 10
    ),
    "adam_uncorrected": Case(
        lambda lr: adam_uncorrected(lr, b2=0.99), {"digits": (0.003, 500), "cifar10": (0.001, 400)}, 10
    ),
    "amsgrad": Case(lambda lr: optax.amsgrad(lr, b2=0.99), {"cifar10": (0.003, 400)}, 10),
    "normalised_gd": Case(normalised_gd, {"digits": (0.1, 400)}, kind="norm"),
    "clipped": Case(lambda lr: clipped(optax.sgd(lr), max_norm=0.1), {"digits": (1.0, 400)}, kind="norm"),
    "lamb": Case(lambda lr: optax.lamb(lr, b2=0.99), {}, 10, kind="norm"),
    "lars": Case(lambda lr: optax.lars(lr, momentum=0.9), {}, kind="layer"),
    "adafactor": Case(_adafactor, {}, 10, kind="layer"),
    "shampoo": Case(shampoo, {}, 10, kind="layer"),
}
"""Yogi is missing: its central flow is refused. SOAP is no optimizer of optax or of this package."""

LOSS = mse()


@lru_cache
def _data(name: str, root: str | None) -> Any:
    if name == "digits":
        return digits(n=200)
    if name == "cifar10":
        return cifar10(root=root, n=100, classes=4, pool=4)
    return sorting(n=100, vocabulary=4, length=4)


def problem(name: str, seed: int, root: str | None) -> Problem:
    """One of the problems with the initial weights of a seed."""
    key, data = jax.random.PRNGKey(seed), _data(name, root)
    if name == "digits":
        model: Any = MLP(data, key, widths=[32, 32])
    elif name == "cifar10":
        model = CNN(data, key, channels=[4, 8], dense=32)
    else:
        model = Transformer(data, key, width=16, depth=1, heads=2, hidden=32, head_scale=1.0)
    return Problem.from_model(model, data, LOSS, jnp.float64)


@lru_cache
def optimizer(name: str, lr: float) -> Any:
    """The optimizer of a case, one object for all seeds, which then share compiled programs."""
    return CASES[name].build(lr)
