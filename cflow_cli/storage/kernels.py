"""The files of what ``cflow kernel`` has computed: a table, the matrices, and beside them manifest and config."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cflow_cli.errors import UserError
from cflow_cli.records import Column
from cflow_cli.storage import digests, tables
from cflow_cli.storage.files import walk, write_atomically
from cflow_cli.storage.reader import KERNEL, read_run

TABLE, MATRICES, UNFINISHED = KERNEL, "kernel.npz", "unfinished.npz"

COLUMNS = (
    Column(
        "kind",
        "string",
        "1",
        "nngp, ntk: of the infinitely wide network; empirical: tangent kernel of this one",
    ),
    Column(
        "readout",
        "string",
        "1",
        "output layer on: a vector (dense), the mean over pixels (gap), all (flatten)",
    ),
    Column("depth", "int32", "1", "linear layers, the output layer among them"),
    Column("seed", "int32", "1", "of the weights of an empirical kernel"),
    Column("n", "int32", "1", "training examples"),
    Column("accuracy", "float64", "1", "of regression with the kernel, on the training examples"),
    Column("test_accuracy", "float64", "1", "the same on the test examples"),
    Column("loss", "float64", "1", "mean of ½‖f − y‖² over the training examples"),
    Column("test_loss", "float64", "1", "the same over the test examples"),
    Column("lambda_max", "float64", "1", "largest eigenvalue of the kernel between training examples"),
    Column("lambda_min", "float64", "1", "smallest"),
    Column("condition", "float64", "1", "largest over smallest"),
    Column(
        "edge_lr", "float64", "1", "2n/λ_max: above it gradient descent on the linearised network diverges"
    ),
    Column("distance", "float64", "1", "‖Θ − Θ_∞‖/‖Θ_∞‖ (Frobenius) of an empirical kernel to the ntk"),
    Column("seconds", "float64", "s", "what all kernels of this kind, or this empirical one, took"),
)
"""Columns of ``kernel.parquet``."""

README = """\
Kernels of a network, computed by cflow.

kernel.parquet  one row per kind, readout and depth: accuracy of regression, spectrum, edge learning rate
kernel.npz      the matrices: KIND_READOUT_DEPTH between training examples (n, n), and with _test at the end
                between test and training examples (m, n); of empirical ones, empirical_SEED
manifest.json   status (running, done, interrupted, failed and why), versions, device, timings
config.yaml     every setting, resolved
unfinished.npz  only until it is done: what has been computed so far

    pandas      pd.read_parquet("kernel.parquet")
    numpy       np.load("kernel.npz")["ntk_gap_4"]

null means that there is no such number. Meaning and unit of each column are in the field metadata.
A table: cflow report {folder}
To continue after an interruption: cflow resume {folder}
"""


@dataclass(frozen=True)
class Kernel:
    """A folder that ``cflow kernel`` has written.

    Parameters
    ----------
    folder
        Where it is.
    manifest
        What ``manifest.json`` says.
    config
        The resolved config.
    """

    folder: Path
    manifest: dict[str, Any]
    config: dict[str, Any]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per kind, readout and depth; no rows before it is done."""
        with _telling_damage(self.folder / TABLE):
            return pq.read_table(self.folder / TABLE).to_pandas()

    @cached_property
    def matrices(self) -> dict[str, NDArray]:
        """Name, such as ``ntk_gap_4``, to matrix."""
        return load(self.folder / MATRICES)

    def value(self, column: str, **keys: Any) -> Any:
        """The value of a column in the one row with some values of others.

        Raises
        ------
        UserError
            If it is not one row.
        """
        rows = self.table
        for key, value in keys.items():
            rows = rows[rows[key] == value]
        if len(rows) != 1:
            raise UserError(f"{self.folder / TABLE} has {len(rows)} rows with {keys}, where one was wanted")
        return rows[column].iloc[0]


@contextmanager
def _telling_damage(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file into a sentence that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"cannot use {path}: {why}; to make it again: cflow resume {path.parent}") from error


def is_kernel(folder: Path) -> bool:
    """Whether a folder is one of ``cflow kernel``."""
    return (folder / TABLE).is_file()


def find_kernels(paths: Iterable[Path | str]) -> list[Path]:
    """Find the folders of kernels at or below some paths, each once."""
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        for folder, inside, names in walk(path):
            if TABLE in names:
                found[folder] = None
                inside.clear()
    return list(found)


def read_kernel(folder: Path | str) -> Kernel:
    """Open one folder of a kernel.

    Raises
    ------
    UserError
        When it is none.
    """
    folder = Path(folder)
    if not is_kernel(folder):
        raise UserError(f"{folder} holds no {TABLE}, so it is not from cflow kernel")
    run = read_run(folder)
    return Kernel(folder, run.manifest, run.config)


def write_table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``kernel.parquet``; columns that a row lacks are null."""
    empty = {"string": None, "int32": -1, "float64": float("nan")}
    columns = {c.name: [row.get(c.name, empty[c.type]) for row in rows] for c in COLUMNS}
    arrow = tables.to_arrow(TABLE, columns, tables.described(COLUMNS, {"table": "kernel"}))
    write_atomically(folder / TABLE, lambda path: pq.write_table(arrow, path, compression="zstd"))


def save(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write arrays by name, complete or not at all."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # a name would get .npz at its end
            np.savez(file, allow_pickle=False, **arrays)

    write_atomically(path, write)


def load(path: Path) -> dict[str, NDArray]:
    """Read arrays by name; what is damaged fails the checksum that each has.

    Raises
    ------
    UserError
        When the file is missing or damaged.
    """
    with _telling_damage(path), np.load(path, allow_pickle=False) as file:
        return dict(file)


def digests_of(folder: Path) -> dict[str, str]:
    """Digests of table and matrices, for the manifest, which ``cflow verify`` holds them against."""
    return {name: digests.of_file(folder / name) for name in (TABLE, MATRICES)}
