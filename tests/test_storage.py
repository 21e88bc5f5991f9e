"""Runs on disk: what was written is what every reader reads, at any moment and after any accident."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from disk import reseal

from cflow_cli.errors import UserError
from cflow_cli.records import EIGENVALUES, METRICS
from cflow_cli.storage import RunWriter, files, find_runs, mending, parts, read_run


def metrics(first: int, rows: int, process: str = "discrete") -> dict[str, np.ndarray]:
    """Rows whose every value follows from the step; odd steps miss their eigen_residual and num_critical."""
    step = np.arange(first, first + rows)
    columns: dict[str, np.ndarray] = {}
    for column in METRICS:
        if column.type == "string":
            columns[column.name] = np.full(rows, "ok", dtype=object)
        else:
            columns[column.name] = step.astype(column.type if column.type != "int32" else "float64")
    columns["process"] = np.full(rows, process, dtype=object)
    columns["eigen_residual"][step % 2 == 1] = np.nan
    columns["num_critical"][step % 2 == 1] = np.nan
    columns["num_tracked"] = np.where(step % 2 == 1, -1, step)  # as an integer array says "not measured"
    return columns


def eigenvalues(first: int, rows: int) -> dict[str, np.ndarray]:
    step = np.arange(first, first + rows, dtype=np.int32)
    text = {name: np.full(rows, name, dtype=object) for name in ("process", "kind")}
    return {"step": step, **text, "index": np.zeros(rows, np.int32), "value": step / 2}


def nothing(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values[:0] for name, values in table.items()}


def test_every_reader_reads_a_growing_run(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", flush_seconds=0)
    writer.start({"seed": 3}, config="lr: 0.1\n")
    for part in range(3):
        writer.write(metrics(10 * part, 10), eigenvalues(10 * part, 10 * (part == 1)))
        # A part somebody is in the middle of writing must not disturb a reader.
        (tmp_path / "run" / "metrics" / ".part-00009.parquet.1.tmp").write_bytes(b"PAR1 half")
        wanted = np.arange(10 * (part + 1))
        glob = str(tmp_path / "run/metrics/*.parquet")
        frames = [
            pd.read_parquet(tmp_path / "run/metrics"),
            pl.read_parquet(glob).to_pandas(),
            duckdb.sql(f"SELECT * FROM '{glob}' ORDER BY step").df(),
            read_run(tmp_path / "run").metrics,
        ]
        for frame in frames:
            assert list(frame.columns) == [column.name for column in METRICS]
            np.testing.assert_array_equal(frame["step"], wanted)
            np.testing.assert_array_equal(frame["loss"], wanted.astype(float))
            assert (frame["process"].astype(str) == "discrete").all()
            np.testing.assert_array_equal(frame["num_critical"].isna(), wanted % 2 == 1)
            np.testing.assert_array_equal(frame["num_tracked"].isna(), wanted % 2 == 1)
            np.testing.assert_array_equal(frame["eigen_residual"].isna(), wanted % 2 == 1)
        eigen = str(tmp_path / "run/eigenvalues/*.parquet")
        assert (
            len(pl.read_parquet(eigen))
            == duckdb.sql(f"SELECT * FROM '{eigen}'").df().shape[0]
            == 10 * (part > 0)
        )
        assert read_run(tmp_path / "run").manifest["step"] == 10 * (part + 1)
    assert read_run(tmp_path / "run").config == {"lr": 0.1}


def test_fields_say_what_they_mean(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    writer.start({})
    writer.write(metrics(0, 1), nothing(eigenvalues(0, 1)))
    for table, columns in (("metrics", METRICS), ("eigenvalues", EIGENVALUES)):
        schema = pq.read_schema(tmp_path / table / "part-00000.parquet")
        assert schema.names == [column.name for column in columns]
        for column in columns:
            field = schema.field(column.name)
            assert str(field.type) == {"float64": "double", "float32": "float"}.get(column.type, column.type)
            assert field.metadata[b"unit"].decode() == column.unit
            assert field.metadata[b"meaning"].decode().startswith(column.meaning)


def test_chunks_are_gathered_and_finish_writes_the_rest(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, flush_seconds=3600)
    writer.start({"steps": 500})
    for step in range(500):
        writer.write(metrics(step, 1), eigenvalues(step, 1))
    assert len(read_run(tmp_path).metrics) == 1  # the first chunk is there at once
    writer.finish("interrupted", reason="stopped by the user", counts={"hvps": np.int64(7), "bad": np.nan})
    assert sorted(path.name for path in (tmp_path / "metrics").iterdir()) == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    run = read_run(tmp_path)
    np.testing.assert_array_equal(run.metrics["step"], np.arange(500))
    np.testing.assert_array_equal(run.eigenvalues["value"], np.arange(500) / 2)
    assert run.status == "interrupted"
    assert run.manifest["reason"] == "stopped by the user"
    assert run.manifest["counts"] == {"hvps": 7, "bad": None}
    json.loads((tmp_path / "manifest.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_many_rows_are_not_held_back(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, flush_seconds=3600, max_rows=100)
    writer.start({})
    for step in range(0, 1000, 10):
        writer.write(metrics(step, 10), nothing(eigenvalues(0, 1)))
    assert len(read_run(tmp_path).metrics) >= 900


@pytest.mark.parametrize("stage", ["eigenvalues", "metrics", "manifest"])
def test_a_full_disk_costs_nothing_that_was_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    writer = RunWriter(tmp_path, flush_seconds=0)
    writer.start({})
    writer.write(metrics(0, 5), eigenvalues(0, 5))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}

    real = files.sync

    def full(path: Path) -> None:
        if stage in str(path.relative_to(tmp_path)) and path.name.endswith(".tmp"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path)

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(UserError, match=r"the disk is full.*Free some space"):
        writer.write(metrics(5, 5), eigenvalues(5, 5))
    assert all(path.read_bytes() == content for path, content in before.items())
    assert not list(tmp_path.rglob("*.tmp"))
    assert len(read_run(tmp_path).metrics) in (5, 10)

    monkeypatch.undo()  # room again: nothing was forgotten, nothing comes twice
    writer.write(metrics(10, 5), eigenvalues(10, 5))
    writer.finish("done")
    np.testing.assert_array_equal(read_run(tmp_path).metrics["step"], np.arange(15))
    np.testing.assert_array_equal(read_run(tmp_path).eigenvalues["step"], np.arange(15))


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        RunWriter(tmp_path / "file" / "run").start({})
    RunWriter(tmp_path / "run").start({})
    with pytest.raises(UserError, match="already holds a run"):
        RunWriter(tmp_path / "run").start({})
    denied = OSError(errno.EACCES, "Permission denied")
    assert "not writable" in str(files.explain(denied, tmp_path))
    with pytest.raises(ValueError, match="unknown columns"):
        RunWriter(tmp_path).write({**metrics(0, 1), "typo": np.zeros(1)}, eigenvalues(0, 1))


def test_damage_is_named(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    writer.start({})
    writer.write(metrics(0, 5), eigenvalues(0, 5))
    part = tmp_path / "metrics/part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"part-00000\.parquet is damaged"):
        _ = read_run(tmp_path).metrics
    assert len(read_run(tmp_path).eigenvalues) == 5
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="cannot read"):
        read_run(tmp_path)


def test_columns_an_older_version_did_not_write_are_not_measured(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run")
    writer.start({})
    writer.finish("done")
    part = tmp_path / "run/metrics/part-00000.parquet"
    pq.write_table(pq.read_table(part).drop_columns(["sigma_trace", "status"]), part)
    reseal(tmp_path / "run")
    metrics = read_run(tmp_path / "run").metrics
    assert list(metrics) == [column.name for column in METRICS]


def test_a_killed_run_is_told_from_a_running_one(tmp_path: Path) -> None:
    RunWriter(tmp_path / "mine").start({})
    assert read_run(tmp_path / "mine").status == "running"
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    RunWriter(tmp_path / "gone").start({"pid": int(child.stdout)})
    assert read_run(tmp_path / "gone").status == "killed"


def test_runs_are_found_in_their_order(tmp_path: Path) -> None:
    for name in ("sweep/10", "sweep/2", "single", "deep/er/run"):
        RunWriter(tmp_path / name).start({})
    (tmp_path / "sweep" / "3").mkdir()
    names = [str(path.relative_to(tmp_path)) for path in find_runs([tmp_path, tmp_path / "sweep/2"])]
    assert names == ["deep/er/run", "single", "sweep/2", "sweep/10"]
    with pytest.raises(UserError, match="not an existing folder"):
        find_runs([tmp_path / "missing"])
    with pytest.raises(UserError, match="is not a run"):
        read_run(tmp_path)


def test_reading_needs_no_jax(tmp_path: Path) -> None:
    code = "import sys, cflow_cli.storage, cflow_cli.report; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_a_long_run_has_few_parts_and_can_be_read_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, left = tmp_path / "run", []
    rename = Path.rename

    def seen(source: Path, target: Path) -> Path:
        renamed = rename(source, target)
        left.append((shutil.copytree(run, tmp_path / f"left-{len(left)}"), step))
        return renamed

    monkeypatch.setattr(Path, "rename", seen)
    writer = RunWriter(run, flush_seconds=0)
    writer.start({})
    early, positions = None, {}
    for step in range(70):
        writer.write(metrics(step, 1), eigenvalues(step, 1))
        positions[step] = writer.position()
        early = early or read_run(run)
        assert max(len(list((run / name).iterdir())) for name in parts.TABLES) <= parts.MOST
    writer.finish("done")
    monkeypatch.undo()
    wanted = np.arange(70)
    np.testing.assert_array_equal(read_run(run).metrics["step"], wanted)
    np.testing.assert_array_equal(read_run(run).eigenvalues["value"], wanted / 2)
    np.testing.assert_array_equal(pl.read_parquet(str(run / "metrics/*.parquet"))["step"], wanted)
    # Whoever opened the run before finds what its parts have become.
    assert len(early.metrics) == 70
    # Killed just after a rename: nothing is missing, nothing comes twice, and the run can go on from there.
    assert len(left) >= 8
    for folder, step in left:
        assert not mending.faults(folder)
        np.testing.assert_array_equal(read_run(folder).metrics["step"], np.arange(step + 1))
        for back in (step, step - 20):
            again = RunWriter(folder)
            again.resume(positions[back], {})
            np.testing.assert_array_equal(read_run(folder).metrics["step"], np.arange(back + 1))
            np.testing.assert_array_equal(read_run(folder).eigenvalues["step"], np.arange(back + 1))
            assert not list(folder.glob(".*.old")) and not list(folder.glob(".*.new"))
            assert len(pl.read_parquet(str(folder / "metrics/*.parquet"))) == back + 1


def test_a_table_that_cannot_be_exchanged_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RunWriter(tmp_path, flush_seconds=0)
    writer.start({})
    for step in range(parts.MOST + 1):
        writer.write(metrics(step, 1), eigenvalues(step, 1))
        writer.flush()

    rename = Path.rename

    def full(source: Path, target: Path) -> None:
        if target == tmp_path / "metrics" and source.name == ".metrics.new":
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(UserError, match="the disk is full"):
        writer.position()
    assert len(read_run(tmp_path).metrics) == parts.MOST + 1 and not list(tmp_path.glob(".metrics*"))


def test_a_read_only_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(UserError, match="the folder is not writable"):
        files.write_text(tmp_path / "report.html", "page")
