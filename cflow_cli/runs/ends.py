"""Points of the landscape that runs have reached: where a process of a run stands at a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cflow_cli.config.path_settings import PathSettings
from cflow_cli.config.tree import flatten
from cflow_cli.engine import snapshot
from cflow_cli.engine.options import Discrete
from cflow_cli.errors import UserError
from cflow_cli.runs import places, receiving
from cflow_cli.storage import Run, checkpoints, manifests, read_run

# Where the files of the data lie, and how much of them is in memory at once, is no part of the landscape.
_ELSEWHERE = ("data.root", "data.microbatch")
_LANDSCAPE = ("model", "data", "loss")


@dataclass(frozen=True)
class End:
    """Weights that a process of a run has reached.

    Parameters
    ----------
    run
        The run.
    process
        ``discrete`` or a flow.
    step
        Of the checkpoint.
    weights
        Shape (n,).
    notes
        Sentences on newer checkpoints that could not be used.
    """

    run: Run
    process: str
    step: int
    weights: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Folder, process and step, as :func:`read_end` takes them."""
        return f"{self.run.folder}@{self.process}@{self.step}"

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return hashlib.sha256(np.ascontiguousarray(self.weights).tobytes()).hexdigest()


def read_end(text: str, config_dir: Path | None = None, *, trust: bool = False) -> End:
    """Read the point that ``RUN[@PROCESS[@STEP]]`` names: by default the optimizer at the newest checkpoint.

    Parameters
    ----------
    text
        Folder of the run, process and step.
    config_dir
        A folder of configs of the user's own, whose modules are trusted.
    trust
        Whether whatever the run's config names may be built; see :mod:`cflow_cli.runs.receiving`.

    Raises
    ------
    UserError
        If there is no such run, process or checkpoint, or its config names what nobody trusts.
    """
    folder, process, step = places.parse(text)
    process = process or Discrete.name
    if not folder.is_dir():
        raise UserError(f"{folder} is not an existing folder; an end is RUN, RUN@central or RUN@central@200")
    run = read_run(folder)
    if not run.config:
        raise UserError(f"{folder} has no config.yaml, so its network cannot be built again")
    if not trust:
        receiving.check_run(folder, run.config, config_dir)
    found = checkpoints.at_step(folder, step)
    weights = snapshot.weights(found.arrays)
    if process not in weights:
        raise UserError(f"{text}: {found.path} has no {process} process; it has {', '.join(sorted(weights))}")
    return End(run, process, found.step, weights[process], found.notes)


def request(ends: Sequence[End], settings: PathSettings) -> dict[str, Any]:
    """What tells one result of ``cflow path`` from another, as ``path.json`` has it: its ends and settings."""
    asked = asdict(replace(settings, out=None, device="auto"))
    points = [
        {"run": str(end.run.folder), "process": end.process, "step": end.step, "weights_sha256": end.digest}
        for end in ends
    ]
    return {"ends": points, "settings": manifests.plain(asked)}


def check_landscape(one: Run, two: Run) -> None:
    """Check that two runs have one landscape.

    Raises
    ------
    UserError
        If their model, data or loss differ; the sentence says in what.
    """
    ours, theirs = (_landscape(run.config) for run in (one, two))
    for key in dict.fromkeys([*ours, *theirs]):
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"{one.folder} and {two.folder} have different landscapes: {key} is {ours.get(key)} in one and "
                f"{theirs.get(key)} in the other; a path needs two runs of the same model, data and loss"
            )


def _landscape(config: Mapping[str, Any]) -> dict[str, Any]:
    flat = flatten({key: config.get(key) for key in _LANDSCAPE})
    return {key: value for key, value in flat.items() if key not in _ELSEWHERE}
