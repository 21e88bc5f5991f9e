"""Where a simulation stands, as arrays by name: to go on from, or to branch off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cflow_cli.errors import UserError


class Start(NamedTuple):
    """Where a simulation branches off another one; see :func:`branch`.

    Parameters
    ----------
    before, weights
        Iterates w_{t−1} and w_t, shape (n,).
    optimizer
        Arrays of the optax state there, by name.
    """

    before: np.ndarray
    weights: np.ndarray
    optimizer: dict[str, np.ndarray]

    def arrays(self) -> dict[str, np.ndarray]:
        """By name, as :func:`branch` finds them for ``discrete``."""
        state = {f"discrete.optimizer.{name}": array for name, array in self.optimizer.items()}
        return {"discrete.before": self.before, "discrete.weights": self.weights, **state}


def branch(arrays: Mapping[str, np.ndarray], process: str) -> Start:
    """The point one process has reached in a snapshot, as the start of another simulation.

    Parameters
    ----------
    arrays
        Of a :class:`Snapshot`.
    process
        ``discrete``, or a flow that had started.

    Raises
    ------
    UserError
        If the snapshot does not have that process.
    """
    prefix = "discrete." if process == "discrete" else f"{process}.process."
    if prefix + "weights" not in arrays:
        own = sorted({name.split(".")[0] for name in arrays if name.endswith(".weights")})
        raise UserError(f"there is no {process} process to start from; there is {', '.join(own)}")
    weights = arrays[prefix + "weights"]
    state = prefix + "optimizer."
    optimizer = {name.removeprefix(state): a for name, a in arrays.items() if name.startswith(state)}
    return Start(arrays.get(prefix + "before", weights), weights, optimizer)


def weights(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights that the optimizer and each flow have in a snapshot, by process."""
    own = {
        name.removesuffix(".process.weights"): a
        for name, a in arrays.items()
        if name.endswith(".process.weights")
    }
    return own | {"discrete": arrays["discrete.weights"]}


class Snapshot(NamedTuple):
    """All that a simulation needs to go on, except its settings.

    Parameters
    ----------
    header
        Step, and of each process its block size, status, counts; holds what JSON can hold.
    arrays
        Arrays by name, as in ``central.process.weights``.
    """

    header: dict[str, Any]
    arrays: dict[str, np.ndarray]
