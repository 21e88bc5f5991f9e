"""Reading runs back, also while they are being written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from cflow_cli.errors import UserError
from cflow_cli.records import METRICS, Column
from cflow_cli.storage import manifests, tables


@dataclass(frozen=True)
class Run:
    """One run on disk.

    Parameters
    ----------
    folder
        Its folder.
    manifest
        What ``manifest.json`` says.
    config
        The resolved config, empty if the run has none.
    """

    folder: Path
    manifest: dict[str, Any]
    config: dict[str, Any]

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row per step and process; strings as categories. What the columns are: :attr:`columns`."""
        return self.table("metrics")

    @cached_property
    def eigenvalues(self) -> pd.DataFrame:
        """Long table of eigenvalues; read when first asked for."""
        return self.table("eigenvalues")

    @cached_property
    def columns(self) -> dict[str, Column]:
        """Columns of the metrics by name: those of ``records.METRICS``, then those that only this run has.

        Meaning and unit are those in the field metadata of the run's own files, where it has any.
        """
        own = {name: _describe(field) for name, field in self._written_fields("metrics").items()}
        return {column.name: own.get(column.name, column) for column in METRICS} | own

    def table(self, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read a table, or some of its columns; a value that a part does not have is missing.

        Parameters
        ----------
        name
            ``"metrics"`` or ``"eigenvalues"``.
        columns
            By default all: those of ``records``, then those that only this run has.

        Raises
        ------
        UserError
            When a part is damaged; the sentence names it.
        KeyError
            When neither ``records`` nor the run has one of the columns.
        """
        fields = {field.name: field for field in tables.schema(name)}
        if columns is None or not set(columns) <= set(fields):
            written = self._written_fields(name)
            fields |= {extra: field for extra, field in written.items() if extra not in fields}
        chosen = pa.schema([fields[column] for column in (fields if columns is None else columns)])
        parts = [chosen.empty_table()]
        for path in tables.part_paths(self.folder / name):
            with _telling_damage(path):
                part = pq.ParquetFile(path).read(columns=chosen.names)
                # A run of an older version lacks the columns that came later: they were not measured.
                for field in chosen:
                    if field.name not in part.column_names:
                        part = part.append_column(field, pa.nulls(len(part), field.type))
                parts.append(part.select(chosen.names).cast(chosen))
        strings = [field.name for field in chosen if pa.types.is_string(field.type)]
        return pa.concat_tables(parts).to_pandas(strings_to_categorical=bool(strings))

    def _written_fields(self, name: str) -> dict[str, pa.Field]:
        """Fields of the parts of a table by name, each from the first part that has it."""
        fields: dict[str, pa.Field] = {}
        for path in tables.part_paths(self.folder / name):
            with _telling_damage(path):
                for field in pq.read_schema(path):
                    fields.setdefault(field.name, field)
        return fields

    @property
    def status(self) -> str:
        """``running``, ``done``, ``interrupted``, ``failed``, or ``killed``: called running, process gone."""
        return "killed" if manifests.process_is_gone(self.manifest) else self.manifest["status"]


@contextmanager
def _telling_damage(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a part into a sentence that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({str(error).splitlines()[0]}); the other parts are readable: "
            "copy it again from where it was written, or delete it to go on without its steps"
        ) from error


def _describe(field: pa.Field) -> Column:
    """A field of a part as a column; meaning and unit are empty where the file does not tell them."""
    about = field.metadata or {}
    unit, meaning = (about.get(key, b"").decode() for key in (b"unit", b"meaning"))
    is_number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    kind = np.dtype(field.type.to_pandas_dtype()).name if is_number else str(field.type)
    return Column(field.name, kind, unit, meaning)


def read_run(folder: Path | str) -> Run:
    """Open one run folder; its tables are read when first asked for.

    Parameters
    ----------
    folder
        A folder with a ``manifest.json``.

    Raises
    ------
    UserError
        When the folder is not a run.
    """
    folder = Path(folder)
    manifest = manifests.read(folder)
    path = folder / "config.yaml"
    config: Any = {}
    if path.exists():
        try:
            config = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"cannot read {path}: {error}") from error
    return Run(folder, manifest, config if isinstance(config, dict) else {})


def find_runs(paths: Iterable[Path | str]) -> list[Path]:
    """Find the run folders at or below some paths, in the order of their names, each once.

    Parameters
    ----------
    paths
        Run folders, sweep folders, or folders that hold such folders at any depth.

    Raises
    ------
    UserError
        When a path does not exist.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise UserError(f"{path} is not an existing folder; give a run or a folder that holds runs")
        for folder, inside, files in os.walk(path, followlinks=False):
            if manifests.NAME in files:
                found[Path(folder)] = None
                inside.clear()  # runs do not nest
            # Hidden folders hold no runs. Numbered jobs of a sweep in their own order: 2 before 10.
            inside[:] = sorted((name for name in inside if name[0] != "."), key=_natural)
    return list(found)


def _natural(name: str) -> tuple[Any, ...]:
    return (0, int(name), name) if name.isdigit() else (1, 0, name)


# The C parser is ten times as fast where it is built in; five hundred configs are then no wait.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
