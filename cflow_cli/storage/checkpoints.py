"""Checkpoints: one ``.npz`` each, read without pickle, complete or absent, every array with its checksum.

numpy's format is a zip archive, which keeps a CRC-32 of each member: reading one back finds any damage.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cflow_cli.errors import UserError
from cflow_cli.storage.files import explain, write_atomically

FOLDER = "checkpoints"
_HEADER = "header"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, read and found whole.

    Parameters
    ----------
    path
        Its file.
    header
        What JSON can hold: ``step``, state of the processes, position of the storage.
    arrays
        Arrays by name.
    """

    path: Path
    header: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return int(self.header["step"])


def save(folder: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray], keep: int) -> Path:
    """Write a checkpoint into a run folder, and remove those that are not to be kept.

    Parameters
    ----------
    folder
        The run folder.
    header
        With the ``step``; anything JSON can hold.
    arrays
        Arrays by name, none of them of objects.
    keep
        Newest checkpoints to keep, 0 for all.

    Raises
    ------
    UserError
        When the disk is full or the folder cannot be written; older checkpoints are untouched.
    """
    path = folder / FOLDER / f"step-{header['step']:08d}.npz"
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise explain(error, path) from error

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **{_HEADER: np.array(json.dumps(header))}, **arrays)  # type: ignore[arg-type]

    write_atomically(path, write)
    for old in paths(folder)[:-keep] if keep else []:
        if old != path:
            old.unlink(missing_ok=True)
    return path


def paths(folder: Path) -> list[Path]:
    """Checkpoints of a run folder, oldest first."""
    return sorted(p for p in (folder / FOLDER).glob("step-*.npz") if re.fullmatch(r"step-\d+", p.stem))


def load(path: Path) -> Checkpoint:
    """Read one checkpoint, every array of it.

    Raises
    ------
    UserError
        When it is damaged; the sentence names it.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays.pop(_HEADER)))
        return Checkpoint(path, header, arrays)
    # What zipfile and numpy raise depends on where the damage is.
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:100]})") from error


def at_step(folder: Path, step: int | None) -> Checkpoint:
    """The checkpoint of a step, or the newest good one.

    Raises
    ------
    UserError
        When there is none; the sentence says which there are.
    """
    found = paths(folder)
    steps = ", ".join(str(step_of(path)) for path in found)
    if step is not None:
        for path in found:
            if step_of(path) == step:
                return load(path)
        raise UserError(
            f"{folder} has no checkpoint of step {step}, "
            + (f"only of {steps}" if found else "or of any other")
            + "; run it with checkpoint.every=100 checkpoint.keep=0, say, to have one every 100 steps"
        )
    for path in reversed(found):
        try:
            return load(path)
        except UserError:
            continue
    raise UserError(
        f"{folder} has no checkpoint" + (f" that can be read (of steps {steps})" if found else "")
    )


def step_of(path: Path) -> int:
    """Step of a checkpoint, from its name."""
    return int(path.stem.removeprefix("step-"))
