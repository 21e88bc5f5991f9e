"""Checkpoints: one ``.npz`` each, read without pickle, complete or absent, with a digest over the whole file.

numpy's format is a zip archive. Its CRC-32 of each member does not cover the archive's own tables, in which a flipped
bit loses members without a word; so the comment at the archive's end is the SHA-256 of all that comes before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cflow_cli.errors import UserError
from cflow_cli.storage import digests
from cflow_cli.storage.files import explain, write_atomically

FOLDER = "checkpoints"
START = Path(FOLDER) / "start.npz"
"""Where a run that branched off another one began: so it is continued without the other one."""
_HEADER = "header"
_DIGEST_BYTES = 64


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
    notes
        Sentences on newer ones that could not be used.
    """

    path: Path
    header: dict[str, Any]
    arrays: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()

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
    write(path, header, arrays)
    for old in paths(folder)[:-keep] if keep else []:
        if old != path:
            old.unlink(missing_ok=True)
    return path


def write(path: Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write one file of a header and arrays, complete or not at all, which :func:`load` reads.

    Raises
    ------
    UserError
        When the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise explain(error, path) from error

    def write_file(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **{_HEADER: np.array(json.dumps(header))}, **arrays)  # type: ignore[arg-type]
        _append_digest(temporary)

    write_atomically(path, write_file)


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
        size = path.stat().st_size - _DIGEST_BYTES
        with path.open("rb") as file:
            file.seek(max(size, 0))
            noted = file.read()
        if noted != digests.of_file(path, size).encode():
            raise ValueError("its digest is not that of its content")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays.pop(_HEADER)))
        return Checkpoint(path, header, arrays)
    # Whatever it is, an older checkpoint may be good; zipfile and numpy's parser of headers raise a dozen kinds.
    except Exception as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:100]})") from error


def _append_digest(path: Path) -> None:
    """Make the digest of an archive its comment, whose length stands in the last two bytes."""
    with path.open("r+b") as file:
        file.seek(-2, 2)
        file.write(_DIGEST_BYTES.to_bytes(2, "little"))
    digest = digests.of_file(path).encode()
    with path.open("ab") as file:
        file.write(digest)


def at_step(folder: Path, step: int | None) -> Checkpoint:
    """The checkpoint of a step, or the newest good one, with notes on those that are not.

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
    notes: list[str] = []
    for path in reversed(found):
        try:
            return replace(load(path), notes=tuple(notes))
        except UserError as error:
            notes.append(f"{error}; taking the checkpoint before it")
    raise UserError(
        f"{folder} has no checkpoint" + (f" that can be read (of steps {steps})" if found else "")
    )


def step_of(path: Path) -> int:
    """Step of a checkpoint, from its name."""
    return int(path.stem.removeprefix("step-"))
