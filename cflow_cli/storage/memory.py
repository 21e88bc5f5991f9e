"""A run that is nowhere on disk, read as if it were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from cflow_cli.records import Column
from cflow_cli.storage import tables
from cflow_cli.storage.reader import Run


@dataclass(frozen=True)
class RunInMemory(Run):
    """A run whose tables are in memory; its folder is only a name.

    Parameters
    ----------
    tables
        ``metrics`` and ``eigenvalues``, with the schemas that they would have on disk.
    """

    tables: Mapping[str, pa.Table]

    def table(self, name: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Take a table, or some of its columns."""
        whole = self.tables[name]
        return (whole if columns is None else whole.select(list(columns))).to_pandas()

    def _written_fields(self, name: str) -> dict[str, pa.Field]:
        return {field.name: field for field in self.tables[name].schema}


def in_memory(
    name: str,
    manifest: dict[str, Any],
    frames: Mapping[str, pd.DataFrame],
    columns: Sequence[Column],
    kinds: Mapping[str, str],
) -> RunInMemory:
    """Make a run of data frames: what is missing in them is missing as it is on disk.

    Parameters
    ----------
    name
        What a report calls it.
    manifest
        What ``manifest.json`` would say; the status at least.
    frames
        ``metrics`` and ``eigenvalues``.
    columns, kinds
        Of the metrics and of the eigenvalues, with their meanings.
    """
    made = {
        which: tables.to_arrow(
            which,
            {column: frame[column].to_numpy() for column in frame},
            tables.schema(which, columns, kinds),
        )
        for which, frame in frames.items()
    }
    return RunInMemory(Path(name), manifest, {}, made)
