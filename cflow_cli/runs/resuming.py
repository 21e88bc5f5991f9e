"""Continuing a run that was interrupted: from its newest checkpoint that can be trusted, in its own folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from cflow_cli.config.settings import CHANGEABLE, CheckpointSettings
from cflow_cli.config.tree import flatten
from cflow_cli.errors import UserError
from cflow_cli.storage import RunWriter, checkpoints, manifests, read_run

if TYPE_CHECKING:
    from cflow_cli.engine.simulation import Simulation

# Checkpoints that come by the clock take at most this part of the time.
_SHARE = 0.01


# --- writing checkpoints ---------------------------------------------------------------------------


class Checkpoints:
    """Writes the checkpoints of a run when they are due.

    Parameters
    ----------
    simulation, writer
        What is stepped, and what holds its rows.
    options
        How often, and how many to keep.
    """

    def __init__(self, simulation: Simulation, writer: RunWriter, options: CheckpointSettings) -> None:
        self._simulation, self._writer, self._options = simulation, writer, options
        self._saved = time.monotonic()
        self._step = simulation.step
        self._cost = 0.0

    def due(self) -> bool:
        """Whether one should be written now."""
        step, options = self._simulation.step, self._options
        if options.steps is not None:
            return step // options.steps > self._step // options.steps
        if options.seconds is None:
            return False
        return time.monotonic() - self._saved >= max(options.seconds, self._cost / _SHARE)

    def save(self) -> None:
        """Write the rows so far and a checkpoint that goes with them.

        Raises
        ------
        UserError
            When the disk is full; what was there before is untouched.
        """
        began = time.monotonic()
        position = self._writer.position()
        flushed = time.monotonic()
        snapshot = self._simulation.snapshot()
        header = snapshot.header | {"storage": position}
        checkpoints.save(self._writer.folder, header, snapshot.arrays, self._options.keep)
        self._saved, self._step = time.monotonic(), snapshot.header["step"]
        self._cost = self._saved - began
        self._writer.storage_seconds += self._saved - flushed

    def finish(self) -> None:
        """Save where the run ends, unless that was switched off or just done."""
        if (self._options.every is not None) and self._simulation.step != self._step:
            self.save()


# --- reading them ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """Where a run is continued.

    Parameters
    ----------
    checkpoint
        The newest good one; None to begin anew.
    notes
        Sentences on what was found on the way.
    """

    checkpoint: checkpoints.Checkpoint | None
    notes: list[str]


def last_point(folder: Path) -> Point:
    """Find the newest checkpoint that is whole and whose rows are on disk.

    Raises
    ------
    UserError
        When checkpoints exist but rows before each of them are damaged.
    """
    notes, damaged = [], None
    found = checkpoints.paths(folder)
    for path in reversed(found):
        try:
            checkpoint = checkpoints.load(path)
        except UserError as error:
            notes.append(f"{error}; going back to the checkpoint before it")
            continue
        damaged = _damaged_part(folder, checkpoint.header["storage"]["parts"])
        if damaged is None:
            return Point(checkpoint, notes)
        notes.append(f"{folder / damaged} is damaged; going back to a checkpoint from before it was written")
    if damaged is not None:
        raise UserError(
            f"{folder / damaged} is damaged or missing, and no checkpoint is older; bring it back from a copy, "
            "or remove the folder and run again"
        )
    why = "no checkpoint can be read" if found else "no checkpoint yet"
    notes.append(f"{why}: starting from step 0")
    return Point(None, notes)


def _damaged_part(folder: Path, parts: Mapping[str, int]) -> str | None:
    for name, size in parts.items():
        path = folder / name
        if not path.exists() or path.stat().st_size != size:
            return name
    return None


def is_done(folder: Path, cfg: DictConfig) -> bool:
    """Whether a folder holds this very run, finished; UserError if it holds another one.

    Parameters
    ----------
    folder
        A folder that may hold a run.
    cfg
        The config that is to run there, without Hydra's node.
    """
    if not (folder / manifests.NAME).exists():
        return False
    run = read_run(folder)
    changed = _find_changes(run.config, OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    if changed:
        raise UserError(
            f"{folder} already holds a run with {changed[0]}; choose another folder with hydra.run.dir=…, "
            "or continue that run as it is: cflow resume " + str(folder)
        )
    return run.status == "done" and run.manifest.get("step", 0) >= cfg.steps


def _find_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """``lr=0.1 instead of 0.2`` for each key that makes them different runs."""
    before, after = flatten(old), flatten(new)
    return [
        f"{key}={before.get(key)} instead of {after.get(key)}"
        for key in sorted(set(before) | set(after))
        if before.get(key) != after.get(key) and not is_changeable(key)
    ]


def is_changeable(key: str) -> bool:
    """Whether a key may differ between a run and its continuation."""
    return any(key == free or key.startswith(free + ".") for free in CHANGEABLE)
