"""Records of steps as the rows of two tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cflow_cli.engine.measuring import KIND, Schema
from cflow_cli.records import EIGENVALUES, Column, Status

_LABELS = np.array([s.label for s in Status], dtype=object)
# Kinds in the order in which a step lists them.
_FIRST_KINDS = ("effective", "hessian", "sigma", "sigma_measured", "displacement")


@dataclass(frozen=True)
class Chunk:
    """What one chunk of steps brought.

    Parameters
    ----------
    step
        Optimizer steps completed.
    metrics, eigenvalues
        The columns of the simulation's schema and of :data:`cflow_cli.records.EIGENVALUES`; NaN where missing.
    loss, effective_sharpness
        Newest finite value of each process, for a progress bar.
    num_critical
        Number of critical eigenvalues of the central flow, or of the first process measured; None if unknown.
    messages
        Sentences worth showing at once.
    """

    step: int
    metrics: dict[str, np.ndarray]
    eigenvalues: dict[str, np.ndarray]
    loss: dict[str, float]
    effective_sharpness: dict[str, float]
    num_critical: int | None
    messages: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Recorder:
    """Turns records into tables.

    Parameters
    ----------
    schema
        Columns and kinds of the run.
    indices
        What the entries of a kind are called; a kind that is not here counts from 0.
    learning_rate
        Number or schedule, for the column of that name; None where it is not known.
    """

    schema: Schema
    indices: Mapping[str, np.ndarray]
    learning_rate: float | Callable[[Any], Any] | None = None

    def chunk(
        self,
        first: int,
        step: int,
        parts: Sequence[tuple[str, Mapping[str, np.ndarray]]],
        compared: Mapping[str, Mapping[str, np.ndarray]],
    ) -> Chunk:
        """Records of the steps from ``first`` up to ``step`` as the two tables and the figures of a progress bar.

        Parameters
        ----------
        first, step
            Steps taken before and after the chunk.
        parts
            Process and its records, arrays with a row per step.
        compared
            Columns of each process at step ``first`` that come from comparing processes.
        """
        rates = self._rates(first, step - first)
        rows, spectra = [], []
        loss, sharpness, critical = {}, {}, {}
        for name, records in parts:
            # A process whose block grew has several parts, of which one begins where processes were compared.
            at_first = compared.get(name, {}) if records["step"][0] == first else {}
            rows.append(self._metrics(name, records, rates[records["step"] - first], at_first))
            spectra += self._eigenvalues(name, records)
            loss[name] = float(records["loss"][-1])
            known = np.flatnonzero(records["num_critical"] >= 0)
            if len(known):
                sharpness[name] = float(records["effective_sharpness"][known[-1]])
                critical[name] = int(records["num_critical"][known[-1]])
        return Chunk(
            step,
            _in_order(rows, self.schema.columns),
            _in_order(spectra, EIGENVALUES),
            loss,
            sharpness,
            critical.get("central", next(iter(critical.values()), None)),
        )

    def _metrics(
        self,
        process: str,
        records: Mapping[str, np.ndarray],
        rates: np.ndarray,
        compared: Mapping[str, np.ndarray],
    ) -> dict[str, np.ndarray]:
        """Rows of one process, every column of the schema."""
        steps = records["step"]
        table: dict[str, np.ndarray] = {}
        for column in self.schema.columns:
            if column.name == "process":
                value = np.full(len(steps), process, dtype=object)
            elif column.name == "status":
                value = _LABELS[records["status"]]
            elif column.name == "learning_rate":
                value = rates
            elif column.name in records:
                value = records[column.name].astype(column.type)
            elif column.type == "int32":
                value = np.zeros(len(steps), np.int32)
            else:
                value = np.full(len(steps), np.nan)
                if column.name in compared:
                    value[0] = compared[column.name]
            table[column.name] = value
        return table

    def _eigenvalues(self, process: str, records: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Rows of the long table, a block per kind."""
        kinds = [*_FIRST_KINDS, *(kind for kind in self.schema.kinds if kind not in _FIRST_KINDS)]
        return [
            _long(process, kind, records["step"], records[KIND + kind], self.indices.get(kind))
            for kind in kinds
            if KIND + kind in records
        ]

    def _rates(self, first: int, count: int) -> np.ndarray:
        rate = self.learning_rate
        if callable(rate):
            return np.asarray([float(rate(t)) for t in range(first, first + count)])
        return np.full(count, np.nan if rate is None else float(rate))

    def frame(self, table: str, chunks: Sequence[Chunk]) -> pd.DataFrame:
        """All rows of some chunks as a data frame: ``"metrics"`` or ``"eigenvalues"``."""
        columns = self.schema.columns if table == "metrics" else EIGENVALUES
        tables = [getattr(chunk, table) for chunk in chunks] or [_in_order([], columns)]
        return pd.DataFrame({c.name: np.concatenate([t[c.name] for t in tables]) for c in columns})


def _in_order(tables: list[dict[str, np.ndarray]], columns: Sequence[Column]) -> dict[str, np.ndarray]:
    """Tables one after the other, then by step, so that the order of rows tells nothing of the chunks."""
    if not tables:
        return {c.name: np.zeros(0, object if c.type == "string" else c.type) for c in columns}
    whole = {c.name: np.concatenate([table[c.name] for table in tables]) for c in columns}
    order = np.argsort(whole["step"], kind="stable")
    return {name: values[order] for name, values in whole.items()}


def _long(
    process: str, kind: str, steps: np.ndarray, values: np.ndarray, indices: np.ndarray | None
) -> dict[str, np.ndarray]:
    """A (rows, m) block of values as rows of the long table, missing ones left out."""
    row, place = np.nonzero(~np.isnan(values))
    return {
        "step": steps[row].astype(np.int32),
        "process": np.full(len(row), process, dtype=object),
        "kind": np.full(len(row), kind, dtype=object),
        "index": (place if indices is None else indices[place]).astype(np.int32),
        "value": values[row, place].astype(np.float64),
    }
