"""The user's own arrays."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cflow_cli.datasets.dataset import TASKS, Dataset
from cflow_cli.errors import UserError

ARRAYS = ("x", "y", "x_test", "y_test", "mask", "mask_test")


def _read(path: Path) -> dict[str, NDArray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            return {name: file[name] for name in file.files if name in ARRAYS}
    except FileNotFoundError:
        raise UserError(f"data.path={path} does not exist") from None
    except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"data.path={path} is not an .npz file of plain arrays ({error}); write one with "
            "numpy.savez(path, x=..., y=...)"
        ) from None


def _tidy(y: NDArray, task: str) -> NDArray:
    """Targets in the type and shape of the task, where that changes no value."""
    if y.dtype.kind not in "iufb":
        raise UserError(f"data.path: y must hold numbers, got {y.dtype}; number the classes from 0")
    if task in ("classification", "tokens"):
        if y.dtype.kind == "f" and np.isfinite(y).all() and (y == np.round(y)).all():
            y = y.astype(np.int64)
        return y.astype(np.int32) if y.dtype.kind in "iu" else y
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
    if task not in TASKS:
        raise UserError(f"data.task must be one of {', '.join(TASKS)}; got {task!r}")
    arrays = _read(Path(path).expanduser())
    missing = [name for name in ("x", "y") if name not in arrays]
    if missing:
        raise UserError(
            f"{path} has no array named {' or '.join(missing)}; write it with numpy.savez(path, x=..., y=...)"
        )
    if any(arrays[name].ndim < 1 or arrays[name].size == 0 for name in arrays):
        raise UserError(f"{path}: arrays must have at least one example")
    for name in ("x", "x_test"):
        if name in arrays and arrays[name].dtype.kind not in "iufb":
            raise UserError(f"{path}: {name} must hold numbers, got {arrays[name].dtype}")
        if name in arrays:
            arrays[name] = (
                _tidy(arrays[name], "tokens")
                if task == "tokens"
                else arrays[name].astype(np.float64 if arrays[name].dtype == np.float64 else np.float32)
            )
    for name in ("y", "y_test"):
        if name in arrays:
            arrays[name] = _tidy(arrays[name], task)
    vocabulary = None
    if task in ("classification", "tokens"):
        kept = ("y", "y_test", "x", "x_test") if task == "tokens" else ("y", "y_test")
        outputs = (
            classes if classes is not None else 1 + max(int(arrays[k].max()) for k in kept if k in arrays)
        )
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
