"""Reading runs back, also while they are being written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from cflow_cli.config import yaml_files
from cflow_cli.errors import UserError
from cflow_cli.records import METRICS, Column
from cflow_cli.storage import digests, manifests, parts, tables
from cflow_cli.storage.files import walk
from cflow_cli.storage.parts import Part

# A part that is gone was merged with others, if the manifest says so; not more often than this while one reads.
_TRIES = 20
CONFIG = "config.yaml"
# The table of a folder of cflow kernel; see cflow_cli.storage.kernels.
KERNEL = "kernel.parquet"
_T = TypeVar("_T")


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
        strings = [field.name for field in chosen if pa.types.is_string(field.type)]
        rows = self._reading(name, lambda found: [chosen.empty_table(), *self._rows(found, chosen)])
        return pa.concat_tables(rows).to_pandas(strings_to_categorical=bool(strings))

    def _rows(self, found: Mapping[str, Part | None], chosen: pa.Schema) -> Iterator[pa.Table]:
        for name in found:
            path = parts.locate(self.folder, name)
            with _telling_damage(path), parts.open_part(path) as file:
                part = file.read(columns=chosen.names)
                # A run of an older version lacks the columns that came later: they were not measured.
                for field in chosen:
                    if field.name not in part.column_names:
                        part = part.append_column(field, pa.nulls(len(part), field.type))
                yield part.select(chosen.names).cast(chosen)

    def _written_fields(self, name: str) -> dict[str, pa.Field]:
        """Fields of the parts of a table by name, each from the first part that has it."""

        def read(found: Mapping[str, Part | None]) -> dict[str, pa.Field]:
            fields: dict[str, pa.Field] = {}
            for part in found:
                path = parts.locate(self.folder, part)
                with _telling_damage(path), parts.open_part(path) as file:
                    for field in file.schema_arrow:
                        fields.setdefault(field.name, field)
            return fields

        return self._reading(name, read)

    def _reading(self, table: str, read: Callable[[Mapping[str, Part | None]], _T]) -> _T:
        """What ``read`` makes of a table's parts, each found whole; once more where they were merged meanwhile."""
        manifest, missing = self.manifest, ""
        for _ in range(_TRIES):
            listed = parts.listed(manifest)
            found: dict[str, Part | None]
            if listed is None:
                found = dict.fromkeys(parts.on_disk(self.folder, table))
            else:
                found = {**parts.of_table(listed, table)}
            try:
                self._check(found)
                return read(found)
            except FileNotFoundError as error:
                missing, before = str(error.filename), manifest
                manifest = manifests.read(self.folder)
                if manifest.get("parts") == before.get("parts") and not Path(missing).exists():
                    break
        raise parts.damage(Path(missing), "it is missing")

    def _check(self, found: Mapping[str, Part | None]) -> None:
        for name, part in found.items():
            if part is not None and part not in self._whole:
                parts.check(self.folder, name, part)
                self._whole.add(part)

    @cached_property
    def _whole(self) -> set[Part]:
        """Parts that were found to be what was written."""
        return set()

    @property
    def status(self) -> str:
        """``running``, ``done``, ``interrupted``, ``failed``, or ``killed``: called running, process gone."""
        return "killed" if manifests.process_is_gone(self.manifest) else self.manifest["status"]


@contextmanager
def _telling_damage(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a part into a sentence that names it."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise parts.damage(path, str(error).partition("\n")[0]) from error


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
    text = read_config(folder, manifest)
    config = {} if text is None else yaml_files.parse(text, folder / CONFIG)
    return Run(folder, manifest, config if isinstance(config, dict) else {})


def read_config(folder: Path, manifest: Mapping[str, Any]) -> str | None:
    """Text of a run's config; None where it has none.

    Raises
    ------
    UserError
        When it cannot be read, or is not the one that the manifest knows.
    """
    path, known = folder / CONFIG, manifest.get("config_sha256")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if known is None:
            return None
        why = "it is missing"
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:300]
    else:
        if known is None or digests.of_text(text) in known:
            return text
        why = "it was changed after it was written"
    raise UserError(f"cannot use {path}: {why}; to take the one of a checkpoint: cflow resume {folder}")


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
        for folder, inside, names in walk(path):
            if KERNEL in names:
                inside.clear()  # of cflow kernel: no steps, and tables of its own
            elif manifests.NAME in names or ("metrics" in inside and manifests.is_run(folder)):
                found[folder] = None
                inside.clear()  # runs do not nest
            inside.sort(key=_natural)  # numbered jobs of a sweep in their own order: 2 before 10
    return list(found)


def _natural(name: str) -> tuple[Any, ...]:
    return (0, int(name), name) if name.isdigit() else (1, 0, name)
