"""Reading runs back, also while they are being written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from cflow_cli.errors import UserError
from cflow_cli.storage import manifest as manifests
from cflow_cli.storage import tables


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
        """One row per step and process; columns as in ``records.METRICS``, strings as categories."""
        return self.table("metrics")

    @cached_property
    def eigenvalues(self) -> pd.DataFrame:
        """Long table of eigenvalues; read when first asked for."""
        return self.table("eigenvalues")

    def table(self, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read a table, or some of its columns.

        Raises
        ------
        UserError
            When a part is damaged; the sentence names it.
        """
        schema = tables.schema(name)
        chosen = schema if columns is None else pa.schema([schema.field(column) for column in columns])
        parts = [chosen.empty_table()]
        for path in tables.part_paths(self.folder / name):
            try:
                part = pq.ParquetFile(path).read(columns=chosen.names)
                # A run of an older version lacks the columns that came later: they were not measured.
                for field in chosen:
                    if field.name not in part.column_names:
                        part = part.append_column(field, pa.nulls(len(part), field.type))
                parts.append(part.select(chosen.names).cast(chosen))
            except (pa.ArrowException, OSError, ValueError) as error:
                raise UserError(
                    f"{path} is damaged ({str(error).splitlines()[0]}); the other parts are readable: "
                    "copy it again from where it was written, or delete it to go on without its steps"
                ) from error
        strings = [field.name for field in chosen if pa.types.is_string(field.type)]
        return pa.concat_tables(parts).to_pandas(strings_to_categorical=bool(strings))

    @property
    def status(self) -> str:
        """``running``, ``done``, ``interrupted``, ``failed``, or ``killed``: called running, process gone."""
        return "killed" if manifests.process_is_gone(self.manifest) else self.manifest["status"]


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
