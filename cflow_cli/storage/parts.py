"""The Parquet parts of a run: each with its length, rows and digest, and few of them however long the run.

The manifest lists the parts that make up the tables, in their order; what it does not list is no part of them. To
merge parts, a folder with the new ones (and links to those that stay) takes the place of the table's folder, the
manifest names its parts, and only then the folder before goes: at any moment one of the two holds all that is listed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cflow_cli.errors import UserError
from cflow_cli.storage import digests, files
from cflow_cli.storage.tables import TABLES

# Parts of a table that a checkpoint leaves, about; and a part so long that it is left as it is.
MOST = 32
_MOST_ROWS = 4_000_000
# Rows at a time, and of a row group: what merging holds in memory.
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Part:
    """What is known of a part.

    Parameters
    ----------
    bytes, rows
        Its length.
    sha256
        Its digest.
    """

    bytes: int
    rows: int
    sha256: str


def listed(manifest: Mapping[str, Any]) -> dict[str, Part] | None:
    """Parts by path in the run folder, as a manifest lists them; None where it has no list.

    Raises
    ------
    UserError
        When the list is not as it must be.
    """
    entries = manifest.get("parts")
    if entries is None:
        return None
    found = {}
    for name, entry in entries.items():
        try:
            part = Part(**entry)
        except TypeError as error:
            raise UserError(f"the manifest's entry of {name!r} is damaged: {error}") from error
        numbers = type(part.bytes) is int and type(part.rows) is int and isinstance(part.sha256, str)
        if not numbers or not re.fullmatch(rf"({'|'.join(TABLES)})/part-[\d-]+\.parquet", name):
            raise UserError(f"the manifest's entry of {name!r} is damaged")
        found[name] = part
    return found


def of_table(found: Mapping[str, Part], table: str) -> dict[str, Part]:
    """Those of one table."""
    return {name: part for name, part in found.items() if name.startswith(f"{table}/")}


def on_disk(folder: Path, table: str) -> list[str]:
    """Paths in the run folder of a table's parts, in the order they were written."""
    names = (path.name for path in (folder / table).glob("part-*.parquet"))
    return [f"{table}/{name}" for name in sorted(names, key=_numbers)]


def next_number(names: Iterable[str]) -> int:
    """A number that no part has."""
    return 1 + max((max(_numbers(name)) for name in names), default=-1)


def locate(folder: Path, name: str) -> Path:
    """Where a listed part is: in its table's folder, or in the one before while parts are being merged."""
    path = folder / name
    before = folder / f".{path.parent.name}.old" / path.name
    return before if not path.exists() and before.exists() else path


def check(folder: Path, name: str, part: Part) -> Path:
    """The path of a part, once it is found to be what was written.

    Raises
    ------
    FileNotFoundError
        When it is not there.
    UserError
        When it is damaged; the sentence names it.
    """
    path = locate(folder, name)
    if path.stat().st_size != part.bytes:
        raise damage(path, f"it has {path.stat().st_size} bytes where {part.bytes} were written")
    if digests.of_file(path) != part.sha256:
        raise damage(path, "its digest is not that of what was written")
    return path


def damage(path: Path, why: str) -> UserError:
    """The sentence on a damaged part."""
    return UserError(
        f"{path} is damaged ({why}): copy it again from where it was written; in a run that has not ended, "
        "cflow resume takes its steps again where it can"
    )


def open_part(path: Path) -> pq.ParquetFile:
    """Open a part such that every page is held against its checksum."""
    return pq.ParquetFile(path, page_checksum_verification=True)


def describe(path: Path) -> Part:
    """What is to be known of a part on disk, all of it read."""
    rows = sum(len(batch) for batch in open_part(path).iter_batches(_ROWS_AT_ONCE))
    return Part(path.stat().st_size, rows, digests.of_file(path))


def describe_all(folder: Path) -> dict[str, Part]:
    """Every part of a run folder as it is on disk."""
    return {name: describe(folder / name) for table in TABLES for name in on_disk(folder, table)}


def write(path: Path, rows: pa.Table) -> Part:
    """Write a part, complete or not at all."""
    return _write(path, rows.schema, [rows])


def _write(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> Part:
    repeated = [field.name for field in schema if not pa.types.is_floating(field.type)]
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": repeated, "write_page_checksum": True}
    found: list[Part] = []

    def write_file(temporary: Path) -> None:
        rows = 0
        with pq.ParquetWriter(temporary, schema, **options) as out:
            for table in tables:
                out.write_table(table)
                rows += len(table)
        found.append(Part(temporary.stat().st_size, rows, digests.of_file(temporary)))

    files.write_atomically(path, write_file)
    return found[0]


# --- merging ---------------------------------------------------------------------------------------


def newest_to_merge(folder: Path, found: Mapping[str, Part], schema: pa.Schema) -> list[str]:
    """The newest parts of a table, those to make one of; a part twice as long as all after it is left.

    So each row is written again as often as the number of rows doubles, and few parts are left.

    Parameters
    ----------
    folder
        The run folder.
    found
        The table's parts, in order.
    schema
        Only parts of this schema are merged.
    """
    chosen: list[str] = []
    rows = 0
    for name, part in reversed(list(found.items())):
        enough = len(chosen) >= MOST // 2 and part.rows > 2 * rows
        if enough or rows + part.rows > _MOST_ROWS or not pq.read_schema(folder / name).equals(schema):
            break
        chosen.insert(0, name)
        rows += part.rows
    return chosen if len(chosen) > 1 else []


def merged_name(names: Sequence[str]) -> str:
    """Name of the part that some parts become: ``metrics/part-00000-00031.parquet``."""
    table, numbers = names[0].partition("/")[0], [number for name in names for number in _numbers(name)]
    return f"{table}/part-{min(numbers):05d}-{max(numbers):05d}.parquet"


def replace(
    folder: Path,
    table: str,
    kept: Mapping[str, Part],
    new: str,
    rows: Iterable[pa.Table],
    schema: pa.Schema,
    commit: Callable[[dict[str, Part]], None],
) -> None:
    """Exchange the parts of a table for those that are kept and a new last one.

    Parameters
    ----------
    folder, table
        Which.
    kept
        Parts that stay.
    new
        Name of the new part; no part has had it.
    rows, schema
        What is in it.
    commit
        Called with the table's parts once they are in place; has to write them into the manifest.

    Raises
    ------
    UserError
        When the folder cannot be written; the table is as it was then.
    """
    own, fresh, before = folder / table, folder / f".{table}.new", folder / f".{table}.old"
    try:
        for rest in (fresh, before):
            if rest.exists():
                shutil.rmtree(rest)
        fresh.mkdir()
        part = _write(fresh / Path(new).name, schema, rows)
        for name in kept:
            _link(folder / name, fresh / Path(name).name)
        files.sync(fresh)
        own.rename(before)
        fresh.rename(own)
        files.sync(folder)
    except BaseException as error:
        settle(folder, kept)
        if isinstance(error, OSError):
            raise files.explain(error, own) from error
        raise
    commit({**kept, new: part})
    shutil.rmtree(before, ignore_errors=True)


def settle(folder: Path, found: Mapping[str, Part]) -> None:
    """Bring to an end what a killed :func:`replace` has left, one way or the other: as the manifest lists it."""
    for table in TABLES:
        own, fresh, before = folder / table, folder / f".{table}.new", folder / f".{table}.old"
        names = of_table(found, table)
        if before.exists() and not (own.exists() and all((folder / name).exists() for name in names)):
            shutil.rmtree(fresh, ignore_errors=True)
            if own.exists():
                own.rename(fresh)
            before.rename(own)
        for rest in (fresh, before):
            shutil.rmtree(rest, ignore_errors=True)


def first_rows(folder: Path, names: Iterable[str], count: int | None = None) -> Iterable[pa.Table]:
    """Rows of some parts one after the other, as many at a time as a row group is to have.

    Parameters
    ----------
    folder
        The run folder.
    names
        Of the parts.
    count
        How many rows, by default all.
    """
    waiting: list[pa.Table] = []
    for name in names:
        if count == 0:
            break
        with open_part(folder / name) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                rows = pa.Table.from_batches([batch])
                if count is not None:
                    rows = rows.slice(0, count)
                    count -= len(rows)
                waiting.append(rows)
                if sum(map(len, waiting)) >= _ROWS_AT_ONCE:
                    yield pa.concat_tables(waiting).combine_chunks()
                    waiting = []
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the file system has no such thing."""
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)


def _numbers(name: str) -> list[int]:
    """First and last number in the name of a part: of all parts that it was merged from."""
    found = [int(text) for text in re.findall(r"\d+", name.rpartition("/")[2])]
    return found or [0]
