"""The paths between runs that figures need: made once, and asked for their numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cflow_cli.config.path_settings import PathSettings
from cflow_cli.errors import UserError
from cflow_cli.runs.ends import End, read_end, request
from cflow_cli.storage import paths
from cflow_cli.storage.paths import Paths

Plan = tuple[str, str, Mapping[str, Any]]
"""Two ends, each a label of a run or ``label@process``, and settings of ``cflow path``."""


@dataclass(frozen=True)
class FigurePath:
    """The paths between two ends as figures ask them.

    Parameters
    ----------
    paths
        On disk.
    """

    paths: Paths

    def __getitem__(self, kind: str) -> dict[str, Any]:
        """One of them in numbers, as ``path.json`` has them: ``path["bezier"]["barrier"]``."""
        return self.paths[kind]

    def loss(self, kind: str = "line", column: str = "loss") -> pd.Series:
        """A column of ``path.parquet`` against t."""
        rows = self.paths.table
        rows = rows[rows["kind"] == kind]
        return pd.Series(rows[column].to_numpy(float), index=rows["t"].to_numpy(float))

    @property
    def end_loss(self) -> float:
        """The larger loss of the two ends."""
        rows = self.paths.table
        return float(rows["loss"][rows["t"].isin([0.0, 1.0])].max())

    @property
    def end_test_error(self) -> float:
        """The larger test error of the two ends."""
        rows = self.paths.table
        return 1 - float(rows["test_accuracy"][rows["t"].isin([0.0, 1.0])].min())


def words_of(plan: Plan, folders: Mapping[str, Path], root: Path) -> tuple[tuple[str, str], list[str], Path]:
    """The ends, the settings and the folder of a path, as ``cflow path`` takes them.

    Parameters
    ----------
    plan
        What a figure asks for.
    folders
        Label of each run of the figure -> its folder.
    root
        Folder of all paths of the figures.
    """
    ends = []
    for end in plan[:2]:
        label, _, process = end.partition("@")
        if label not in folders:
            raise UserError(
                f"a path of the figure begins at {label!r}, but its runs are {', '.join(folders)}"
            )
        ends.append(f"{folders[label]}@{process or 'discrete'}")
    options = [f"{key}={_word(value)}" for key, value in plan[2].items()]
    names = [Path(end).name for end in ends]
    digest = hashlib.sha256(json.dumps([names, options]).encode()).hexdigest()[:8]
    kind = _word(plan[2].get("kind", "line")).replace(",", "-")
    return (ends[0], ends[1]), options, root / f"{kind}-{digest}"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def obtain(plan: Plan, folders: Mapping[str, Path], root: Path) -> FigurePath:
    """Return the paths that a figure asks for: those on disk, or new ones.

    Parameters
    ----------
    plan, folders, root
        As of :func:`words_of`.

    Raises
    ------
    UserError
        If they cannot be made.
    """
    named, _, folder = words_of(plan, folders, root)
    settings = PathSettings.of(dict(plan[2]))
    ends = read_end(named[0]), read_end(named[1])
    found = _there(folder, ends, settings)
    if found is None:
        # JAX, which a figure whose paths are all there does not need.
        from cflow_cli.runs.tracing import trace_into

        print(f"  path {folder}", flush=True)
        trace_into(folder, ends, settings)
        found = paths.read(folder)
    return FigurePath(found)


def _there(folder: Path, ends: tuple[End, End], settings: PathSettings) -> Paths | None:
    """The paths in a folder, if they are whole and these."""
    try:
        found = paths.read(folder)
    except UserError:
        return None
    wanted = request(ends, settings)
    return found if all(found.about.get(key) == value for key, value in wanted.items()) else None
