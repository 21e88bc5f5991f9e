"""Plain files: the scalars as a table with a row per step, for spreadsheets and whatever reads no Parquet."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from cflow_cli.loggers.base import Ending, Logger, RunInfo


@dataclass
class CSV(Logger):
    """``scalars.csv``, ``config.csv`` and, at the end, ``summary.csv`` and ``panel.png`` in a folder.

    Parameters
    ----------
    every, wait
        See :class:`~cflow_cli.loggers.base.Logger`.
    folder
        Where a folder of the run's name is made; None for ``csv`` in the run folder.
    """

    folder: str | None = None

    def open(self, run: RunInfo) -> dict[str, Any]:
        """Make the files, or go on with those that are there."""
        self._into = run.folder_for("csv", self.folder)
        self._into.mkdir(parents=True, exist_ok=True)
        told = dict(run.config) | {"tags": ", ".join(run.tags), "notes": run.notes or ""}
        self._write("config.csv", told)
        self._table = self._into / "scalars.csv"
        self._names: list[str] = _cut_to_whole_lines(self._table)
        self._file: TextIO = self._table.open("a", newline="", encoding="utf-8")
        return {"folder": str(self._into)}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row; a quantity that was not there before gets a column."""
        new = [name for name in values if name not in self._names]
        if new:
            self._widen([*(self._names or ["step"]), *new])
        writer = csv.DictWriter(self._file, self._names)
        writer.writerow({"step": step, **values})

    def flush(self) -> None:
        """Let readers see the rows so far."""
        self._file.flush()

    def close(self, ending: Ending) -> None:
        """Close the table, and write the summary and the picture."""
        self._file.close()
        if ending.summary:
            self._write("summary.csv", ending.summary)
        if ending.panel is not None:
            shutil.copyfile(ending.panel, self._into / "panel.png")

    def _widen(self, names: list[str]) -> None:
        """Write the table again under a longer head."""
        self._file.close()
        longer = self._table.with_suffix(".tmp")
        with (
            self._table.open(newline="", encoding="utf-8") as old,
            longer.open("w", newline="", encoding="utf-8") as new,
        ):
            writer = csv.DictWriter(new, names)
            writer.writeheader()
            writer.writerows(csv.DictReader(old))
        os.replace(longer, self._table)  # noqa: PTH105 - atomic
        self._names = names
        self._file = self._table.open("a", newline="", encoding="utf-8")

    def _write(self, name: str, values: Mapping[str, Any]) -> None:
        with (self._into / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["key", "value"])
            writer.writerows(values.items())


def _cut_to_whole_lines(table: Path) -> list[str]:
    """Take off half a line that a killed run may have left, and give the names of the columns."""
    if not table.exists():
        return []
    with table.open("r+b") as file:
        end = file.read().rfind(b"\n") + 1
        file.truncate(end)
    with table.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])
