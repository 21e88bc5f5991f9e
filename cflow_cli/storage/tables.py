"""The two tables as Arrow schemas, and as rows of a Parquet part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from cflow_cli.records import EIGENVALUES, KINDS, METRICS, Column

TABLES = ("metrics", "eigenvalues")

# Strings stay plain strings in Arrow, so that every reader shows them as text; on disk they are
# dictionary-encoded, as are the integers that repeat.
_TYPES = {
    "int32": pa.int32(),
    "float64": pa.float64(),
    "float32": pa.float32(),
    "string": pa.string(),
    "bool": pa.bool_(),
}


def schema(table: str, columns: Sequence[Column] = METRICS, kinds: Mapping[str, str] = KINDS) -> pa.Schema:
    """Arrow schema of a table, each field with its meaning and unit as metadata.

    Parameters
    ----------
    table
        ``"metrics"`` or ``"eigenvalues"``.
    columns
        Of the metrics; by default those that every run has.
    kinds
        Of the eigenvalues, with their meaning.
    """
    columns = columns if table == "metrics" else EIGENVALUES
    words = "; ".join(f"{kind} = {text}" for kind, text in kinds.items())
    columns = [replace(c, meaning=f"{c.meaning}: {words}") if c.name == "kind" else c for c in columns]
    return described(columns, {"table": table, "format": "cflow 1"})


def described(columns: Sequence[Column], about: Mapping[str, str]) -> pa.Schema:
    """Arrow schema of any columns, each field with its meaning and unit as metadata; and of the whole, ``about``."""
    fields = [
        pa.field(c.name, _TYPES[c.type], metadata={"meaning": c.meaning, "unit": c.unit}) for c in columns
    ]
    return pa.schema(fields, metadata=dict(about))


def to_arrow(table: str, columns: Mapping[str, Any], wanted: pa.Schema | None = None) -> pa.Table:
    """Build rows of a table from one array per column; NaN, None and negative counts become null.

    Parameters
    ----------
    table
        ``"metrics"`` or ``"eigenvalues"``.
    columns
        Every column of the schema, each of shape ``(rows,)``. Integers with missing values may come as floats with
        NaN.
    wanted
        The schema; by default that of a run without measurements.

    Raises
    ------
    ValueError
        When columns are missing, unknown or of different lengths.
    """
    wanted = wanted or schema(table)
    if set(columns) != set(wanted.names):
        missing = sorted(set(wanted.names) - set(columns))
        unknown = sorted(set(columns) - set(wanted.names))
        raise ValueError(f"{table}: missing columns {missing}, unknown columns {unknown}")
    arrays = [_array(columns[field.name], field.type) for field in wanted]
    lengths = {name: len(array) for name, array in zip(wanted.names, arrays)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{table}: columns of different lengths {lengths}")
    return pa.Table.from_arrays(arrays, schema=wanted)


def _array(values: Any, kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind):
        return pa.array(values, type=kind)
    numbers = np.asarray(values)
    # No column counts below zero: a negative count is the simulation's "not measured at this step".
    missing = np.isnan(numbers) if numbers.dtype.kind == "f" else numbers < 0
    if pa.types.is_integer(kind):
        missing |= numbers < 0
        numbers = np.where(missing, 0, numbers)
    return pa.array(numbers.astype(kind.to_pandas_dtype(), copy=False), type=kind, mask=missing)
