"""The files of ``cflow path``: complete or absent, with digests that are held against them when they are read.

``path.npz`` has the control points of each curve, ``path.parquet`` what the loss does on it, and ``path.json``, which
is written last, what was asked for, each curve in numbers, and the digests of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from cflow_cli.errors import UserError
from cflow_cli.records import Column
from cflow_cli.storage import checkpoints, digests, manifests, tables
from cflow_cli.storage.files import explain, write_atomically

NAME = "path.json"
CURVES = "path.npz"
TABLE = "path.parquet"

COLUMNS: tuple[Column, ...] = (
    Column("kind", "string", "", "which curve: line, bezier, chain, dropout"),
    Column("matched", "bool", "", "whether the hidden units of the second end were put in another order"),
    Column("t", "float64", "1", "where on the curve: 0 and 1 are its ends"),
    Column("length", "float64", "weight", "length of the curve from its beginning to there"),
    Column("loss", "float64", "loss", "training loss"),
    Column("accuracy", "float64", "1", "accuracy on the training examples"),
    Column("test_loss", "float64", "loss", "loss on the test examples"),
    Column("test_accuracy", "float64", "1", "accuracy on the test examples"),
    Column("grad_norm_sq", "float64", "loss²/weight²", "squared norm of the gradient"),
)


def write(
    folder: Path,
    about: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    curves: Mapping[str, np.ndarray],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Write all files.

    Parameters
    ----------
    folder
        An existing folder.
    about
        What ``path.json`` says.
    rows
        Columns by name of each curve, see :data:`COLUMNS`; NaN becomes null.
    curves
        Kind -> control points, shape (count, n).
    arrays
        Others by name, for ``path.npz``.

    Raises
    ------
    UserError
        When the disk is full or the folder cannot be written; then there is no ``path.json``.
    """
    try:
        (folder / NAME).unlink(missing_ok=True)  # it would tell of other files
    except OSError as error:
        raise explain(error, folder / NAME) from error
    columns = {column.name: np.concatenate([of[column.name] for of in rows]) for column in COLUMNS}
    table = tables.to_arrow(TABLE, columns, tables.described(COLUMNS, {"format": "cflow path 1"}))
    write_atomically(folder / TABLE, lambda temporary: pq.write_table(table, temporary))
    points = {f"curve.{kind}": array for kind, array in curves.items()}
    checkpoints.write(folder / CURVES, {"curves": list(curves)}, {**points, **arrays})
    known = {name: digests.of_file(folder / name) for name in (TABLE, CURVES)}
    digests.write_sealed(folder / NAME, manifests.plain({**about, "files": known}))


def is_path(folder: Path) -> bool:
    """Whether a folder is one of ``cflow path``."""
    return (folder / NAME).is_file() or (folder / CURVES).is_file()


@dataclass(frozen=True)
class Paths:
    """The paths between two ends, on disk.

    Parameters
    ----------
    folder
        Where.
    about
        What ``path.json`` says.
    """

    folder: Path
    about: dict[str, Any]

    @cached_property
    def table(self) -> pd.DataFrame:
        """Rows of ``path.parquet``; see :data:`COLUMNS`."""
        return pq.read_table(self.folder / TABLE).to_pandas()

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays of ``path.npz``: control points as ``curve.KIND``, the plane, and the curves in it."""
        return checkpoints.load(self.folder / CURVES).arrays

    def __getitem__(self, kind: str) -> dict[str, Any]:
        """One of them in numbers."""
        return self.about["paths"][kind]


def read(folder: Path) -> Paths:
    """Read a folder of ``cflow path``, after its files were found to be what was written.

    Raises
    ------
    UserError
        When it is no such folder, or a file is damaged or missing.
    """
    try:
        about = digests.read_sealed(folder / NAME)
    except FileNotFoundError:
        raise UserError(f"{folder} is not a folder of cflow path: it has no {NAME}") from None
    known = about.get("files")
    for name in (TABLE, CURVES):
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing; make the path again with cflow path")
        if not isinstance(known, dict) or digests.of_file(path) != known.get(name):
            raise UserError(f"{path} is damaged: it was changed after it was written")
    return Paths(folder, about)


def read_curves(folder: Path) -> dict[str, np.ndarray]:
    """Kind -> control points, shape (count, n).

    Raises
    ------
    UserError
        When ``path.npz`` is missing or damaged.
    """
    path = folder / CURVES
    if not path.is_file():
        raise UserError(f"{path} is missing; make the path again with cflow path")
    arrays = checkpoints.load(path).arrays
    found = {
        name.removeprefix("curve."): points for name, points in arrays.items() if name.startswith("curve.")
    }
    for name, points in found.items():
        if points.ndim != 2 or len(points) < 2 or points.dtype.kind != "f":
            raise UserError(f"{path} is no file of cflow path: its curve {name} has no control points")
    return found
