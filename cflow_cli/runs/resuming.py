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
from cflow_cli.storage import RunWriter, checkpoints, files, manifests, mending, parts, read_run
from cflow_cli.storage.parts import Part
from cflow_cli.storage.tables import TABLES

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
    check = _Rows(folder)
    for path in reversed(found):
        try:
            checkpoint = checkpoints.load(path)
            wanted = checkpoint.header["storage"]["rows"]
        except UserError as error:
            notes.append(f"{error}; going back to the checkpoint before it")
            continue
        damaged = check.first_fault(wanted)
        if damaged is None:
            return Point(checkpoint, notes)
        notes.append(f"{damaged}; going back to a checkpoint from before it was written")
    if damaged is not None:
        raise UserError(
            f"{damaged}, and no checkpoint is older; bring it back from a copy, or remove the folder and run again"
        )
    why = "no checkpoint can be read" if found else "no checkpoint yet"
    notes.append(f"{why}: starting from step 0")
    return Point(None, notes)


class _Rows:
    """Whether the first rows of a run's tables are what was written; each part is read once."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._why = folder, dict[str, str | None]()
        listed = parts.listed(manifests.read(folder))
        self._listed = parts.describe_all(folder) if listed is None else listed

    def first_fault(self, wanted: Mapping[str, int]) -> str | None:
        for table in TABLES:
            rows = 0
            for name, part in parts.of_table(self._listed, table).items():
                if rows >= wanted[table]:
                    break
                rows += part.rows
                if name not in self._why:
                    self._why[name] = self._fault(name, part)
                if self._why[name] is not None:
                    return self._why[name]
            if rows < wanted[table]:
                return f"{self._folder / table} is damaged or missing: it has {rows} of {wanted[table]} rows"
        return None

    def _fault(self, name: str, part: Part) -> str | None:
        try:
            parts.check(self._folder, name, part)
        except (UserError, FileNotFoundError):
            return f"{self._folder / name} is damaged or missing"
        return None


def measured_as_last(simulation: Simulation, folder: Path) -> tuple[int, list[str]] | None:
    """The step that was the run's last before it was prolonged, and the columns measured there for no other reason.

    Parameters
    ----------
    simulation
        The prolonged one.
    folder
        The run folder as it was left.
    """
    before = manifests.read(folder).get("steps") or simulation.steps
    if before >= simulation.steps:
        return None
    names = [process.name for process in simulation.options.processes]
    columns = [
        column.name
        for measurement in simulation.options.measurements
        if measurement.at_end and (before - 1) % measurement.interval(simulation.optimizer)
        for column in (*measurement.columns_for(names), *measurement.predictions()[0])
    ]
    return (before - 1, columns) if columns else None


def mend(folder: Path) -> list[str]:
    """Make a damaged manifest or config again; sentences on that, none where all is well."""
    if not mending.is_needed(folder):
        return []
    with files.lock(folder):
        return mending.mend(folder)


def is_done(folder: Path, cfg: DictConfig) -> bool:
    """Whether a folder holds this very run, finished; UserError if it holds another one.

    Parameters
    ----------
    folder
        A folder that may hold a run.
    cfg
        The config that is to run there, without Hydra's node.
    """
    for note in mend(folder):
        print(f"note: {note}", flush=True)
    if not (folder / manifests.NAME).exists():
        return False
    run = read_run(folder)
    changed = find_changes(run.config, OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    if changed:
        raise UserError(
            f"{folder} already holds a run with {changed[0]}; choose another folder with hydra.run.dir=…, "
            "or continue that run as it is: cflow resume " + str(folder)
        )
    # A kernel has pairs of inputs to go through, not steps.
    ended = run.status == "done" and ("kernel" in cfg or run.manifest.get("step", 0) >= cfg.steps)
    # Damaged rows are taken again, from a checkpoint of before.
    faults = mending.part_faults(folder, parts.listed(run.manifest) or {})
    return ended and not faults and not mending.file_faults(folder, run.manifest)


def find_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
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
