"""One run that two programs compute together, over the loopback: the same numbers up to the order of sums."""

import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from cflow_cli import together
from cflow_cli.errors import LOST, UserError, is_loss
from cflow_cli.runs import aborted

CFLOW = Path(sys.executable).with_name("cflow")
SMALL = [
    "data.n=20", "data.n_test=null", "model.widths=[4]", "dtype=float64", "device=cpu", "kick=0", "measurements=[]",
]  # fmt: skip
PATIENCE = 300


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def programs():
    """Start ``cflow`` as two programs that meet over the loopback; none outlives the test."""
    started = []
    yield lambda folder, *command: started.extend(two := _start(folder, command)) or two
    for one in started:
        one.kill()


def _start(folder, command, several=2):
    port = free_port()
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    return [
        subprocess.Popen(
            [
                str(CFLOW), *command, f"distributed.coordinator=127.0.0.1:{port}",
                f"distributed.num_processes={several}", f"distributed.process_id={number}",
            ],
            cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(several)
    ]  # fmt: skip


def ends(started):
    return [(*one.communicate(timeout=PATIENCE), one.returncode) for one in started]


def tables(folder):
    return [pd.read_parquet(folder / name) for name in ("metrics", "eigenvalues")]


def manifest(folder):
    try:
        return json.loads((folder / "manifest.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


@pytest.mark.skipif(not CFLOW.exists(), reason="cflow is not installed beside this Python")
def test_two_programs_compute_the_run_of_one(programs, tmp_path):
    wanted = ["run", *SMALL, "processes=[discrete]", "steps=8"]
    (out, err, status), (out_1, err_1, status_1) = ends(
        programs(tmp_path, *wanted, "hydra.run.dir=two", "checkpoint.every=3")
    )
    assert (status, status_1) == (0, 0), err + err_1
    assert "float64 on 2 devices (cpu) of 2 programs" in out and "step 8/8" in out
    assert out_1 == "starting: the config, then JAX\n" and err_1 == "" == err
    alone = subprocess.run(
        [str(CFLOW), *wanted, "hydra.run.dir=one"], cwd=tmp_path, capture_output=True, text=True
    )
    assert alone.returncode == 0, alone.stderr
    for ours, theirs in zip(tables(tmp_path / "two"), tables(tmp_path / "one")):
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-12)
    # Who computed it is no part of the run: one program can continue it.
    assert "127.0.0.1" not in (tmp_path / "two" / "config.yaml").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def checkpoints(folder):
    return [int(path.stem.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*.npz")]


@pytest.mark.slow
@pytest.mark.skipif(not CFLOW.exists(), reason="cflow is not installed beside this Python")
def test_a_killed_program_ends_the_other_in_a_sentence_and_both_go_on_together(programs, tmp_path):
    wanted = ["run", *SMALL, "processes=[discrete]", "steps=120", "lr=0.05"]
    folder = tmp_path / "two"
    leading, beside = programs(tmp_path, *wanted, "checkpoint.every=10", "hydra.run.dir=two")
    until(lambda: max(checkpoints(folder), default=0) >= 10)
    beside.kill()
    (_, err, status), _ = ends([leading, beside])
    assert status == 1 and err == f"error: {LOST}\n"
    assert manifest(folder)["status"] == "failed" and manifest(folder)["reason"] == LOST

    leading, beside = programs(tmp_path, "resume", "two")
    before = max(checkpoints(folder))
    until(lambda: max(checkpoints(folder)) > before)
    leading.kill()
    _, (_, err, status) = ends([leading, beside])
    assert status != 0 and err == f"error: {LOST}\n"
    assert manifest(folder)["status"] == "running"

    (out, err, status), (_, err_1, status_1) = ends(programs(tmp_path, "resume", "two"))
    assert (status, status_1) == (0, 0), err + err_1
    assert "continuing from step" in out and manifest(folder)["status"] == "done"
    assert len(manifest(folder)["resumed"]) == 2 and manifest(folder)["step"] == 120
    alone = subprocess.run(
        [str(CFLOW), *wanted, "hydra.run.dir=one"], cwd=tmp_path, capture_output=True, text=True
    )
    assert alone.returncode == 0, alone.stderr
    for ours, theirs in zip(tables(folder), tables(tmp_path / "one")):
        pd.testing.assert_frame_equal(ours, theirs, rtol=1e-9)


def test_what_one_decides_holds_for_all_and_so_does_its_error(monkeypatch):
    said = []
    leading = together.Group(2, 0, lambda word: said.append(word) or word)
    beside = together.Group(2, 1, lambda word: said.pop(0))
    monkeypatch.setattr(together, "_group", leading)
    assert together.decide(lambda: {"step": 3}) == {"step": 3}
    with pytest.raises(UserError, match="the disk is full"):
        together.decide(lambda: (_ for _ in ()).throw(UserError("the disk is full")))
    monkeypatch.setattr(together, "_group", beside)
    assert together.decide(lambda: 1 / 0) == {"step": 3}
    with pytest.raises(together.Told, match="the disk is full"):
        together.decide(lambda: 1 / 0)
    assert not together.leads() and together.count() == 2


NOTICED = b"E1125 coordination_service.cc:1549] Use error polling: UNAVAILABLE\n1\nThe tasks have crashed.\n"
FATAL = b"F1125 client.h:80] Terminating process because the JAX distributed service detected fatal errors.\n    @ 0x7f\n"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"warning: one\n" + NOTICED + FATAL, b"warning: one\nerror: SENTENCE\n"),
        (b"error: SENTENCE\n" + NOTICED + FATAL, b"error: SENTENCE\n"),
        (FATAL + b"RPC: /xla.coordination.CoordinationService/RegisterTask\n", b"error: NEVER MET\n"),
        (NOTICED + b"error: SENTENCE\n", b"error: SENTENCE\n"),
        (b"one\n" + NOTICED, b"one\n" + NOTICED),
        (NOTICED + b"other\n" * 20, NOTICED + b"other\n" * 20),
    ],
)
def test_of_an_abort_a_sentence_is_left(written, shown):
    out = io.BytesIO()
    aborted.pass_on(io.BytesIO(written), out, "SENTENCE", "NEVER MET")
    assert out.getvalue() == shown


def test_what_tells_a_loss():
    import jax

    assert is_loss(jax.errors.JaxRuntimeError("INTERNAL: Gloo all-reduce failed: Connection closed by peer"))
    assert is_loss(ValueError("UNKNOWN: Gloo all-reduce failed: Connection reset by peer"))
    assert not is_loss(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"))
