"""From a loss and an optimizer to a result, in one call."""

from __future__ import annotations

from typing import Any

import optax

from cflow_cli.engine.options import SimulationOptions
from cflow_cli.engine.simulation import Simulation
from cflow_cli.problem import Problem
from cflow_cli.results.result import Result


def simulate(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    options: SimulationOptions | None = None,
    **settings: Any,
) -> Result:
    """Run an optimizer with its midpoints and flows side by side.

    Parameters
    ----------
    problem, optimizer, options, **settings
        As in :class:`~cflow_cli.engine.simulation.Simulation`.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from cflow_cli import Problem, simulate
    >>> problem = Problem.from_function(lambda w: 0.5 * jnp.sum(jnp.array([3.0, 1.0, 0.5]) * w**2), jnp.ones(3))
    >>> result = simulate(problem, optax.sgd(0.1), processes=("discrete", "midpoint"), steps=3)  # and "central", …
    >>> float(result.metrics.query("process == 'midpoint'").effective_sharpness.iloc[-1].round(5))
    0.3
    """
    simulation = Simulation(problem, optimizer, options, **settings)
    for _ in simulation:
        pass
    return Result.of(simulation)
