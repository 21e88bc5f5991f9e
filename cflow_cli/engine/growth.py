"""How fast the oscillations of an optimizer grow, and from what: for a report on bursts, once per run."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cflow_cli.engine.simulation import Simulation
from cflow_cli.optimizers.operator_map import OperatorMap
from cflow_cli.optimizers.update_map import UpdateMap


def of_oscillations(simulation: Simulation) -> dict[str, Any]:
    """What the burst number of a run is made of; empty for an optimizer without a diagonal D.

    Parameters
    ----------
    simulation
        Where it has come to: κ of :meth:`~cflow_cli.optimizers.update_map.UpdateMap.growth` is taken at that state.

    Returns
    -------
    growth, noise, second_moments
        κ, a mean over the weights; the noise of kicks, or else of rounding, per weight; whether there are second
        moments, which react to an oscillation.
    """
    optimizer = simulation.optimizer
    if optimizer.refusal is not None or isinstance(optimizer, OperatorMap):
        return {}
    w = np.asarray(simulation.problem.w0)
    noise = np.hypot(simulation.options.kick, np.finfo(w.dtype).eps * np.linalg.norm(w)) / len(w) ** 0.5
    growth = jnp.mean(_growth(optimizer, simulation.discrete.optimizer)) if optimizer.momenta else 1
    return {"growth": float(growth), "noise": float(noise), "second_moments": optimizer.adaptive}


@eqx.filter_jit
def _growth(optimizer: UpdateMap, state: Any) -> Array:
    return optimizer.growth(state)
