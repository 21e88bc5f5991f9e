"""Writing a run as it goes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cflow_cli import clock
from cflow_cli.errors import UserError
from cflow_cli.records import KINDS, METRICS, Column
from cflow_cli.storage import digests, manifests, parts, tables
from cflow_cli.storage.files import explain, write_text

FORMAT = 1

_README = """\
One run of cflow, written while it ran.

manifest.json   status (running, done, interrupted, failed and why), versions, device, timings, counts
config.yaml     every setting of the run, resolved
metrics/        Parquet, one row per step and process
eigenvalues/    Parquet, long: one row per step, process, kind and index
checkpoints/    the newest states to go on from; numpy.load reads them
loggers/        with logger=…: under which ids trackers of experiments know the run, and how far they are

Every part is complete; all parts of a folder together are the table. Read it with

    pandas   pd.read_parquet("metrics")
    polars   pl.read_parquet("metrics/*.parquet")
    DuckDB   SELECT * FROM 'metrics/*.parquet'

while the run goes on as well. null means not measured. Meaning and unit of each column are in the
field metadata: pyarrow.dataset.dataset("metrics").schema.field("loss").metadata
Whether every file is what was written: cflow verify {folder}
A summary: cflow report {folder}
To continue after an interruption: cflow resume {folder}
"""


class RunWriter:
    """Writes one run folder: parts of two tables, the manifest, a README.

    Chunks are gathered and written as one part of each table per ``flush_seconds``, or per
    hundredth of the run's age if that is longer: a run of a day leaves a few hundred parts, and
    losing the machine loses at most that much. Each part gets its final name in one step, and the
    manifest its length and digest. Of one flush the eigenvalues come first: a step in ``metrics``
    has its eigenvalues. At a checkpoint many parts are merged to few, so that a reader meets no row
    twice and misses none (:mod:`cflow_cli.storage.parts`).

    Parameters
    ----------
    folder
        The run folder; made if absent.
    columns, kinds
        Of the metrics and of the eigenvalues, as the simulation's; by default those that every run has.
    flush_seconds
        Shortest time between two parts; the first chunk is written at once.
    max_rows
        Rows gathered at most.

    Examples
    --------
    >>> import tempfile
    >>> from cflow_cli.storage import read_run
    >>> folder = tempfile.mkdtemp()
    >>> writer = RunWriter(folder)  # for a Simulation: columns=simulation.columns, kinds=simulation.kinds
    >>> writer.start({"seed": 0, "steps": 500}, "lr: 0.1")
    >>> for chunk in []:  # a Simulation
    ...     writer.write(chunk.metrics, chunk.eigenvalues)
    >>> writer.finish("done")
    >>> run = read_run(folder)
    >>> run.status, run.config["lr"], len(run.metrics)
    ('done', 0.1, 0)
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        columns: Sequence[Column] = METRICS,
        kinds: Mapping[str, str] = KINDS,
        flush_seconds: float = 10.0,
        max_rows: int = 1_000_000,
    ):
        self.folder = Path(folder)
        self._schemas = {name: tables.schema(name, columns, kinds) for name in tables.TABLES}
        self.flush_seconds = flush_seconds
        self.max_rows = max_rows
        self.manifest: dict[str, Any] = {"parts": {}}
        self._config: str | None = None
        self._gathered: dict[str, list[pa.Table]] = {name: [] for name in tables.TABLES}
        self._next = 0
        self._step = 0
        self._started = time.monotonic()
        self._flushed: float | None = None
        self.storage_seconds = 0.0

    def start(self, manifest: Mapping[str, Any], config: str | None = None) -> None:
        """Make the folder and say that the run has begun.

        Parameters
        ----------
        manifest
            What is known at the start; versions, git commit, command line, host and start time
            are added where it does not give them.
        config
            Text of ``config.yaml``, if it is to be written here.

        Raises
        ------
        UserError
            When the folder cannot be written or already holds a run.
        """
        if (self.folder / manifests.NAME).exists():
            raise UserError(f"{self.folder} already holds a run; choose another folder or delete this one")
        for name in tables.TABLES:
            try:
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise explain(error, self.folder / name) from error
            if parts.on_disk(self.folder, name):
                raise UserError(f"{self.folder} already holds {name} of another run; choose another folder")
        self._started = time.monotonic()
        given = {**manifests.environment(), "started": clock.now(), **manifest}
        self.manifest = {"status": "running", "format": FORMAT, **given, "parts": {}}
        write_text(self.folder / "README.txt", _README.format(folder=self.folder))
        if config is not None:
            write_text(self.folder / "config.yaml", config)
            self.manifest["config_sha256"] = [digests.of_text(config)]
            self._config = config
        manifests.write(self.folder, self.manifest)

    def position(self) -> dict[str, Any]:
        """Write the gathered rows, merge parts where there are many, and say what is needed to go on from here.

        Returns
        -------
        dict
            Step; rows of each table; and manifest and config, which can be made again from it.

        Raises
        ------
        UserError
            When the rows cannot be written.
        """
        self.flush()
        for name in tables.TABLES:
            self._merge(name)
        rows = {name: sum(part.rows for part in self._parts(name).values()) for name in tables.TABLES}
        return {
            "step": self._step,
            "rows": rows,
            "manifest": manifests.plain(self.manifest),
            "config": self._config,
        }

    def resume(
        self,
        position: Mapping[str, Any] | None,
        manifest: Mapping[str, Any],
        config: str | None = None,
        forget: tuple[int, Sequence[str]] | None = None,
    ) -> None:
        """Go on with the run in this folder from a :meth:`position`, or from its start.

        Rows written after the position are removed: their steps will be taken again.

        Parameters
        ----------
        position
            From the checkpoint; None to begin anew.
        manifest
            What may have changed since the run began.
        config
            New text of ``config.yaml``.
        forget
            A step, and columns of the metrics that were measured there only because it was the last.

        Raises
        ------
        UserError
            When the folder cannot be written, or holds no run.
        """
        before = manifests.read(self.folder)
        listed = parts.listed(before)
        try:
            if listed is None:
                listed = parts.describe_all(self.folder)
            parts.settle(self.folder, listed)
            for name in tables.TABLES:
                (self.folder / name).mkdir(exist_ok=True)
        except OSError as error:
            raise explain(error, self.folder) from error
        if position is not None:
            self._step = position["step"]
        self._next = parts.next_number(listed)
        self._started = time.monotonic() - (before.get("wall_seconds") or 0.0)
        self._flushed = time.monotonic()
        self.storage_seconds = before.get("storage_seconds") or 0.0
        self.manifest = self._continued(before, manifest)
        self.manifest["parts"] = {name: vars(part) for name, part in listed.items()}
        if config is not None:
            # Between two files, a kill leaves the config of before or the new one: either is right then.
            known = before.get("config_sha256", [])
            self.manifest["config_sha256"] = list(dict.fromkeys([*known, digests.of_text(config)]))
        for name in tables.TABLES:
            wanted = 0 if position is None else position["rows"][name]
            self._keep(parts.of_table(listed, name), name, wanted, forget if name == "metrics" else None)
        self.update()
        if config is not None:
            write_text(self.folder / "config.yaml", config)
            self.update(config_sha256=[digests.of_text(config)])
            self._config = config
        self._clear()

    def _continued(self, before: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
        now = manifests.environment()
        again = {
            "at": clock.now(),
            "step": self._step,
            "command_line": now["command_line"],
            "host": now["host"],
        }
        ended = "killed" if before["status"] == "running" else before["status"]
        again["after"] = ": ".join(text for text in (ended, before.get("reason")) if text)
        return {
            **{key: value for key, value in before.items() if key not in ("finished", "reason")},
            **{key: now[key] for key in ("versions", "git_commit", "platform", "host", "pid")},
            **manifest,
            "status": "running",
            "resumed": [*before.get("resumed", []), again],
        }

    def _keep(
        self,
        found: Mapping[str, parts.Part],
        table: str,
        wanted: int,
        forget: tuple[int, Sequence[str]] | None,
    ) -> None:
        """Keep the first rows of a table: whole parts as they are, then a new one of what is left."""
        rows, kept = 0, {}
        for name, part in found.items():
            if rows + part.rows > wanted or (forget and _has_step(self.folder / name, forget[0])):
                break
            rows += part.rows
            kept[name] = part
        if rows == wanted:
            self._commit(table, kept)
            return
        changed = [name for name in found if name not in kept]
        schema = pq.read_schema(self.folder / changed[0])
        new = f"{table}/part-{self._next:05d}.parquet"
        self._next += 1
        tail = parts.first_rows(self.folder, changed, wanted - rows)
        tail = (_forgotten(part, *forget) if forget else part for part in tail)
        parts.replace(
            self.folder, table, kept, new, tail, schema, lambda now: self._commit(table, now, write=True)
        )

    def _commit(self, table: str, now: Mapping[str, parts.Part], *, write: bool = False) -> None:
        """Have these be the parts of a table."""
        others = {
            name: entry for name, entry in self.manifest["parts"].items() if not name.startswith(f"{table}/")
        }
        self.manifest["parts"] = {**others, **{name: vars(part) for name, part in now.items()}}
        if write:
            self.update()

    def _parts(self, table: str) -> dict[str, parts.Part]:
        return parts.of_table(parts.listed(self.manifest) or {}, table)

    def _merge(self, table: str) -> None:
        found = self._parts(table)
        if len(found) <= parts.MOST:
            return
        schema = self._schemas[table]
        names = parts.newest_to_merge(self.folder, found, schema)
        if not names:
            return
        try:
            for name in names:
                parts.check(self.folder, name, found[name])
        except (UserError, OSError):
            return  # a damaged part stays as it is, with the digest that gives it away
        kept = {name: part for name, part in found.items() if name not in names}
        parts.replace(
            self.folder,
            table,
            kept,
            parts.merged_name(names),
            parts.first_rows(self.folder, names),
            schema,
            lambda now: self._commit(table, now, write=True),
        )

    def _clear(self) -> None:
        """Remove files that were being written when the run was killed, and parts that are none any more."""
        unlisted = [
            name for table in tables.TABLES for name in parts.on_disk(self.folder, table)
            if name not in self.manifest["parts"]
        ]  # fmt: skip
        try:
            for name in unlisted:
                (self.folder / name).unlink(missing_ok=True)
            for leftover in (*self.folder.glob(".*.tmp"), *self.folder.glob("*/.*.tmp")):
                leftover.unlink(missing_ok=True)
        except OSError as error:
            raise explain(error, self.folder) from error

    def write(self, metrics: Mapping[str, Any], eigenvalues: Mapping[str, Any]) -> None:
        """Take one chunk of rows; writes a part when one is due.

        Parameters
        ----------
        metrics, eigenvalues
            One array of shape ``(rows,)`` per column; NaN is missing.

        Raises
        ------
        UserError
            When the disk is full or not writable; complete parts are untouched.
        """
        for name, columns in (("metrics", metrics), ("eigenvalues", eigenvalues)):
            rows = tables.to_arrow(name, columns, self._schemas[name])
            if len(rows):
                self._gathered[name].append(rows)
        steps = metrics["step"]
        if len(steps):
            self._step = max(self._step, 1 + int(max(steps)))
        now = time.monotonic()
        interval = max(self.flush_seconds, 0.01 * (now - self._started))
        if self._flushed is None or now - self._flushed >= interval or self._waiting() >= self.max_rows:
            self.flush()

    def flush(self) -> None:
        """Write the gathered rows as one part of each table, and says so in the manifest."""
        # The first flush writes both tables, even an empty one, so that readers find a schema.
        if not self._waiting() and self.manifest["parts"]:
            return
        began = time.monotonic()
        written = {}
        for name in ("eigenvalues", "metrics"):
            gathered = self._gathered[name]
            if gathered or not self.manifest["parts"]:
                rows = pa.concat_tables([self._schemas[name].empty_table(), *gathered]).combine_chunks()
                path = f"{name}/part-{self._next:05d}.parquet"
                written[path] = vars(parts.write(self.folder / path, rows))
        # Forgotten only once all are on disk: after a full disk, the same parts are written again whole.
        self._gathered = {name: [] for name in tables.TABLES}
        self.manifest["parts"] = {**self.manifest["parts"], **written}
        self._next += 1
        self._flushed = time.monotonic()
        self.storage_seconds += self._flushed - began
        self.update()

    def _waiting(self) -> int:
        return sum(len(rows) for gathered in self._gathered.values() for rows in gathered)

    def update(self, **fields: Any) -> None:
        """Put fields into the manifest, with the number of steps recorded and the seconds gone so far."""
        self.manifest |= {
            "step": self._step,
            "wall_seconds": round(time.monotonic() - self._started, 3),
            "storage_seconds": round(self.storage_seconds, 3),
            "updated": clock.now(),
            **fields,
        }
        manifests.write(self.folder, self.manifest)

    def finish(self, status: str, **fields: Any) -> None:
        """Write the last rows and how the run ended.

        Parameters
        ----------
        status
            ``done``, ``interrupted`` or ``failed``; give ``reason="…"`` with the last two.
        fields
            More for the manifest: counts, statuses of the processes, …

        Raises
        ------
        ValueError
            When the status is none of these.
        UserError
            When the last rows cannot be written; the manifest then says so, if there is room for it.
        """
        if status not in ("done", "interrupted", "failed"):
            raise ValueError(f"a run ends done, interrupted or failed, not {status!r}")
        fields = {"reason": None, **fields}
        try:
            self.flush()
        except UserError as error:
            self.update(**fields | {"status": "failed", "reason": str(error), "finished": clock.now()})
            raise
        self.update(**fields, status=status, finished=clock.now())


def _has_step(path: Path, step: int) -> bool:
    return bool(pc.any(pc.equal(parts.open_part(path).read(["step"])["step"], step)).as_py())


def _forgotten(rows: pa.Table, step: int, columns: Sequence[str]) -> pa.Table:
    """The rows without the values of some columns at a step."""
    there = pc.equal(rows["step"], step)
    for place, field in enumerate(rows.schema):
        if field.name in columns:
            values = pc.if_else(there, pa.scalar(None, field.type), rows[field.name])
            rows = rows.set_column(place, field, values)
    return rows
