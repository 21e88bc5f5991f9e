"""The user's own arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cflow_cli.datasets.dataset import TASKS, Dataset, is_count, memory
from cflow_cli.errors import UserError

ARRAYS = ("x", "y")
OPTIONAL_ARRAYS = ("x_test", "y_test", "mask", "mask_test")
# Entries of a matrix have their own form of a file: data=completion.
FILE_TASKS = tuple(task for task in TASKS if task != "entries")


# Classes that are counted from the labels: a label far beyond any number of classes is no class.
_MOST_CLASSES = 100_000
# What integers of a run are.
_INT32 = np.iinfo(np.int32)


def read_arrays(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, NDArray]:
    """Read arrays of an ``.npz`` file by their names; anything else in it is left alone.

    Parameters
    ----------
    path
        The file.
    required, optional
        Names; those that are optional may be missing.

    Raises
    ------
    UserError
        If the file cannot be read, lacks a required array, or is larger than this machine can hold.
    """
    names = {*required, *optional}
    call = f"numpy.savez(path, {', '.join(f'{name}=...' for name in required)})"
    if not path.is_file():  # nor a pipe, which would be waited for
        raise UserError(f"data.path={path} {'is not a file' if path.exists() else 'does not exist'}")
    try:
        # Numpy tells an .npz by its first bytes and takes anything else for a single array.
        with zipfile.ZipFile(path) as archive:
            members = [entry for entry in archive.infolist() if entry.filename.removesuffix(".npy") in names]
        size, most = sum(entry.file_size for entry in members), memory()
        if size > most // 2:
            raise ValueError(
                f"its arrays have {size / 1e9:.1f} GB, this machine {most / 1e9:.1f} GB of memory"
            )
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name in names}
    except Exception as error:  # a damaged file makes zipfile, zlib and numpy's parser raise a dozen kinds
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"data.path={path} is not an .npz file of plain arrays ({text}); write one with {call}"
        ) from None
    missing = [name for name in required if name not in arrays]
    if missing:
        raise UserError(f"{path} has no array named {' or '.join(missing)}; write it with {call}")
    return arrays


def _tidy(y: NDArray, task: str, name: str) -> NDArray:
    """Targets in the type and shape of the task, where that changes no value."""
    if y.dtype.kind not in "iufb":
        raise UserError(f"data.path: {name} must hold numbers, got {y.dtype}; number the classes from 0")
    if task in ("classification", "tokens"):
        whole = y.dtype.kind in "iu" or (
            y.dtype.kind == "f" and np.isfinite(y).all() and (y == np.round(y)).all()
        )
        if whole and not (_INT32.min <= y.min() and y.max() <= _INT32.max):
            raise UserError(
                f"data.path: {name} has {y.max() if y.max() > 0 else y.min()}, and whole numbers of a {task} task "
                f"are at most {_INT32.max}; number the classes from 0"
            )
        return y.astype(np.int32) if whole else y
    y = y.astype(np.float64 if y.dtype == np.float64 else np.float32)
    if task == "binary":
        y = y.reshape(len(y)) if y.ndim == 2 and y.shape[1] == 1 else y
        return np.where(y == 0, np.float32(-1), y) if np.isin(y, (0, 1)).all() else y
    return y[:, None] if y.ndim == 1 else y


def npz(
    path: str | None = None,
    task: str = "classification",
    classes: int | None = None,
    microbatch: int | None = None,
) -> Dataset:
    """Data from an ``.npz`` file with arrays ``x`` and ``y``.

    ``x_test``, ``y_test``, ``mask`` and ``mask_test`` are used where they are there.

    Parameters
    ----------
    path
        The file, as written by ``numpy.savez``.
    task
        ``classification`` (y: integers from 0), ``binary`` (y: −1 and 1, or 0 and 1), ``regression``
        (y: ``(n,)`` or ``(n, d)``) or ``tokens`` (x and y: integers ``(n, T)``).
    classes
        Number of classes or tokens; null for the largest in the file plus one.
    microbatch
        See ``Dataset``.

    Raises
    ------
    UserError
        If the file cannot be read, or its arrays do not fit the task or each other.
    """
    if path is None:
        raise UserError("data=npz needs data.path, the .npz file with arrays x and y")
    if task not in FILE_TASKS:
        raise UserError(f"data.task must be one of {', '.join(FILE_TASKS)}; got {task!r}")
    if classes is not None and not is_count(classes):
        raise UserError(
            f"data.classes must be a whole number of at least 1, or null to count them, got {classes!r}"
        )
    arrays = read_arrays(Path(path).expanduser(), ARRAYS, OPTIONAL_ARRAYS)
    if any(arrays[name].ndim < 1 or arrays[name].size == 0 for name in arrays):
        raise UserError(f"{path}: arrays must have at least one example")
    for name in ("x", "x_test"):
        if name in arrays and arrays[name].dtype.kind not in "iufb":
            raise UserError(f"{path}: {name} must hold numbers, got {arrays[name].dtype}")
        if name in arrays:
            arrays[name] = (
                _tidy(arrays[name], "tokens", name)
                if task == "tokens"
                else arrays[name].astype(np.float64 if arrays[name].dtype == np.float64 else np.float32)
            )
    for name in ("y", "y_test"):
        if name in arrays:
            arrays[name] = _tidy(arrays[name], task, name)
    vocabulary = None
    if task in ("classification", "tokens"):
        kept = ("y", "y_test", "x", "x_test") if task == "tokens" else ("y", "y_test")
        counted = 1 + max(int(arrays[k].max()) for k in kept if k in arrays)
        if classes is None and counted > _MOST_CLASSES:
            raise UserError(
                f"{path} has the label {counted - 1}, which would make {counted} classes; number them from 0, or give "
                "their number as data.classes"
            )
        outputs = counted if classes is None else classes
        vocabulary = outputs if task == "tokens" else None
    else:
        outputs = arrays["y"].shape[1] if arrays["y"].ndim == 2 else 1
    return Dataset(
        x=arrays["x"],
        y=arrays["y"],
        task=task,
        input_shape=arrays["x"].shape[1:],
        num_outputs=outputs,
        name=Path(path).stem,
        x_test=arrays.get("x_test"),
        y_test=arrays.get("y_test"),
        mask=arrays.get("mask"),
        mask_test=arrays.get("mask_test"),
        vocabulary=vocabulary,
        microbatch=microbatch,
    )
