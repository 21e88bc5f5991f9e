"""The table of kernels that ``cflow kernel`` has computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cflow_cli.config.tree import flatten
from cflow_cli.errors import attempt
from cflow_cli.report.summary import names_of
from cflow_cli.report.tables import Column, Table
from cflow_cli.storage import kernels

_SHOWN = {
    "kind": Column("kind", "kind", "text"),
    "readout": Column("readout", "readout", "text"),
    "depth": Column("depth", "depth", "count"),
    "seed": Column("seed", "seed", "count"),
    "n": Column("n", "n", "count"),
    "accuracy": Column("accuracy", "accuracy", "percent"),
    "test_accuracy": Column("test_accuracy", "test accuracy", "percent"),
    "test_loss": Column("test_loss", "test loss", "number"),
    "lambda_max": Column("lambda_max", "λ_max", "number"),
    "lambda_min": Column("lambda_min", "λ_min", "number"),
    "condition": Column("condition", "condition", "number"),
    "edge_lr": Column("edge_lr", "edge lr", "number"),
    "distance": Column("distance", "distance", "number"),
    "seconds": Column("seconds", "seconds", "seconds"),
}


def table(folders: Sequence[Path], swept: Sequence[str] = ()) -> Table:
    """One row per kernel.

    Parameters
    ----------
    folders
        From :func:`cflow_cli.storage.kernels.find_kernels`.
    swept
        Config keys whose values are shown, too.
    """
    rows: list[dict[str, Any]] = []
    notes = []
    for folder, name in zip(folders, names_of(folders) if folders else ()):
        kernel, why = attempt(lambda: kernels.read_kernel(folder), folder)  # noqa: B023
        found, fault = (None, why) if kernel is None else attempt(lambda: kernel.table, folder)  # noqa: B023
        if kernel is None or found is None:
            notes.append((name, fault or ""))
            continue
        if found.empty:
            reason = kernel.manifest.get("reason")
            notes.append((name, ": ".join(filter(None, (kernel.manifest["status"], reason)))))
        config = flatten(kernel.config)
        about = {"run": name, **{key: config.get(key) for key in swept}}
        rows += [about | row for row in found.to_dict("records")]
    known = {"run": Column("run", "run", "text", wraps=True)} if len(folders) > 1 else {}
    known |= {key: Column(key, key, "text") for key in swept} | _SHOWN
    shown = {key: c for key, c in known.items() if any(not _is_missing(row.get(key)) for row in rows)}
    values = [[_plain(row.get(key), shown[key]) for key in shown] for row in rows]
    return Table(list(shown.values()), values, notes)


def _plain(value: Any, column: Column) -> Any:
    """A value as tables take it: with nulls beside them, pandas has whole numbers as floats."""
    if _is_missing(value):
        return None
    return int(value) if column.kind == "count" else value


def _is_missing(value: Any) -> bool:
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))
