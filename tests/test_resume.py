"""Interrupted runs: at whatever moment a run is cut off, going on gives the tables of a run that was not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pandas as pd
import pytest

from cflow_cli import Problem
from cflow_cli.config import composing
from cflow_cli.config.checking import check
from cflow_cli.config.settings import CheckpointSettings
from cflow_cli.engine.simulation import Simulation
from cflow_cli.engine.snapshot import branch
from cflow_cli.errors import UserError
from cflow_cli.flows.options import Central
from cflow_cli.runs import launching, resuming
from cflow_cli.runs.interrupts import Interrupts
from cflow_cli.runs.run import Prepared, execute
from cflow_cli.storage import RunWriter, checkpoints, files, read_run

STEPS = 36

pytestmark = pytest.mark.optimised


@pytest.fixture(scope="module")
def build():
    """Builds the same run again and again without compiling again; RMSProp past its edge."""
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 4)), rng.normal(size=20)

    def loss(w):
        return 0.5 * ((jax.numpy.tanh(x @ w[:24].reshape(4, 6)) @ w[24:] - y) ** 2).mean()

    problem = Problem.from_function(loss, rng.normal(size=30))
    optimizer = optax.rmsprop(0.05, decay=0.9)

    def prepared(*overrides, **settings):
        cfg = composing.compose(["dtype=float64", f"steps={STEPS}", *overrides])
        checked = check(cfg).settings
        # The flow that remembers most.
        flow = Central(third_derivatives_every=2)
        chosen = {"processes": ("discrete", flow), "chunk": 8, "kick": 1e-3} | settings
        simulation = Simulation(
            problem, optimizer, steps=checked.steps, pause_every=checked.checkpoint.steps, **chosen
        )
        return Prepared(cfg, checked, simulation, "cpu", "data", {})

    return prepared


def tables(folder: Path) -> list[pd.DataFrame]:
    run = read_run(folder)
    return [run.metrics, run.eigenvalues]


def assert_same(folder: Path, wanted: list[pd.DataFrame]) -> None:
    for ours, theirs in zip(tables(folder), wanted, strict=True):
        pd.testing.assert_frame_equal(ours, theirs, check_exact=True)


@pytest.fixture(scope="module")
def undisturbed(build, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert execute(build("checkpoint.every=null"), folder).status == "done"
    assert not (folder / "checkpoints").exists()
    found = tables(folder)
    assert found[0]["num_critical"].max() >= 2 and found[0]["step"].max() == STEPS - 1
    return found


def test_a_run_cut_off_while_it_writes_goes_on_as_if_it_had_not_been(
    build, undisturbed, tmp_path, monkeypatch
):
    """The folder as it is just before and after each rename, with half a file: what SIGKILL leaves behind."""
    run, left = tmp_path / "run", []
    replace = os.replace

    def seen(source, target):
        for moment in ("before", "after"):
            if moment == "after":
                replace(source, target)
            elif run.exists():
                half = tmp_path / "half"
                half.write_bytes(Path(source).read_bytes()[: Path(source).stat().st_size // 2])
            left.append(shutil.copytree(run, tmp_path / f"left-{len(left)}"))
            if moment == "before":
                shutil.copy(half, left[-1] / Path(source).relative_to(run))

    monkeypatch.setattr(os, "replace", seen)
    monkeypatch.setattr(RunWriter.__init__, "__kwdefaults__", {"flush_seconds": 0.0, "max_rows": 10**6})
    assert execute(build("checkpoint.every=7"), run).status == "done"
    monkeypatch.undo()
    assert_same(run, undisturbed)
    assert len(left) > 60
    lost = []
    for folder in random.Random(0).sample(left, 50):
        before = read_run(folder).manifest.get("step", 0) if (folder / "manifest.json").exists() else 0
        point = resuming.last_point(folder).checkpoint if before else None
        lost.append(before - (0 if point is None else point.step))
        assert execute(build("checkpoint.every=7"), folder).status == "done"
        assert_same(folder, undisturbed)
        assert not list(folder.rglob(".*.tmp"))
    assert max(lost) <= 7


def test_damage_is_told_and_passed_over(build, undisturbed, tmp_path, capsys):
    run = tmp_path / "run"
    execute(build("checkpoint.every=12"), run)
    *_, older, newest = checkpoints.paths(run)
    assert [checkpoints.step_of(path) for path in (older, newest)] == [24, 36]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    capsys.readouterr()
    assert execute(build("checkpoint.every=12"), run).status == "done"
    told = capsys.readouterr().out
    assert f"{newest} is damaged" in told and "continuing from step 24" in told
    assert_same(run, undisturbed)

    part = sorted((run / "metrics").glob("*.parquet"))[0]
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{part.name} is damaged or missing, and no checkpoint is older"):
        execute(build("checkpoint.every=12"), run)


def test_a_run_without_its_manifest_goes_on(build, undisturbed, tmp_path, capsys):
    run = tmp_path / "run"
    execute(build("checkpoint.every=12"), run)
    (run / "manifest.json").unlink()
    (run / "checkpoints/step-00000036.npz").unlink()
    capsys.readouterr()
    assert execute(build("checkpoint.every=12"), run).status == "done"
    told = capsys.readouterr().out
    assert "manifest.json is missing" in told and "made again from" in told and "from step 24" in told
    assert_same(run, undisturbed)
    config = composing.compose(["dtype=float64", f"steps={STEPS}", "checkpoint.every=12"])
    assert resuming.is_done(run, config)
    part = sorted((run / "metrics").glob("*.parquet"))[-1]
    part.write_bytes(part.read_bytes()[:-1])
    assert not resuming.is_done(run, config)


def test_another_run_is_never_written_over(build, tmp_path):
    run = tmp_path / "run"
    execute(build(), run)
    same = composing.compose(["dtype=float64", f"steps={STEPS}"])
    assert resuming.is_done(run, same)
    assert not resuming.is_done(run, composing.compose(["dtype=float64", f"steps={2 * STEPS}"]))
    with pytest.raises(UserError, match=r"already holds a run with lr=0\.2 instead of 0\.3"):
        resuming.is_done(run, composing.compose(["dtype=float64", "lr=0.3"]))
    with pytest.raises(UserError, match=r"lr=0\.3 cannot change in a run that is continued"):
        launching.resume(run, ["lr=0.3"])
    with pytest.raises(UserError, match="the run is at step 36 already"):
        launching.resume(run, ["steps=10"])
    with files.lock(run), pytest.raises(UserError, match="being run by another process"):
        execute(build(), run)


def test_a_folder_that_cannot_be_used_is_told_once(tmp_path):
    held, taken = tmp_path / "held", tmp_path / "taken"
    (taken / ".lock").mkdir(parents=True)  # nothing can be written there
    program = (
        "import sys; from cflow_cli.cli import main; from cflow_cli.runs import launching\n"
        "launching.prepare = lambda cfg, **_: None\n"
        "for folder in sys.argv[1:]: print(main(['run', 'hydra.run.dir=' + folder]))"
    )
    command = [sys.executable, "-c", program, str(held), str(taken)]
    with files.lock(held):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1::2] == ["2", "2"]  # after the first words of each
    first, second = done.stderr.splitlines()
    assert first.startswith(f"error: {held} is being run by another process")
    assert second.startswith(f"error: cannot write {taken}/.lock: ")


def test_a_finished_run_can_be_prolonged(build, undisturbed, tmp_path):
    execute(build("steps=20"), tmp_path / "run")
    assert execute(build(), tmp_path / "run").status == "done"
    # The last step of the shorter run was evaluated as its last, which it is not any more.
    assert_same(tmp_path / "run", undisturbed)
    (again,) = read_run(tmp_path / "run").manifest["resumed"]
    assert again["step"] == 20 and again["after"] == "done"


def test_a_full_disk_ends_the_run_and_space_lets_it_go_on(build, undisturbed, tmp_path, monkeypatch):
    import errno

    run, save = tmp_path / "run", np.savez

    def full(file, **arrays):
        if arrays["discrete.step"] >= 20:
            file.write(b"PK half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    result = execute(build("checkpoint.every=10"), run)
    assert result.status == "failed" and "the disk is full" in result.reason and "\n" not in result.reason
    assert [checkpoints.step_of(path) for path in checkpoints.paths(run)] == [10]
    monkeypatch.undo()
    assert execute(build("checkpoint.every=10"), run).status == "done"
    assert_same(run, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_saves_and_stops(number, build, undisturbed, tmp_path):
    prepared = build()
    advance = prepared.simulation._advance

    def advanced(threads):
        chunk = advance(threads)
        if chunk.step > 10:
            signal.raise_signal(number)
        return chunk

    prepared.simulation._advance = advanced
    result = execute(prepared, tmp_path / "run")
    manifest = read_run(tmp_path / "run").manifest
    assert result.exit_code == 130 and manifest["status"] == "interrupted"
    assert signal.Signals(number).name in manifest["reason"]
    (saved,) = checkpoints.paths(tmp_path / "run")
    assert checkpoints.step_of(saved) == manifest["step"] < STEPS
    assert execute(build(), tmp_path / "run").status == "done"
    assert_same(tmp_path / "run", undisturbed)


def test_a_cluster_is_told_of_its_signal_after_the_run_is_saved(build, tmp_path):
    told = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        for number in before:
            signal.signal(number, lambda number, frame: told.append(number))
        interrupts = Interrupts(lambda text: None)
        with interrupts:
            interrupts.unsaved = True
            signal.raise_signal(signal.SIGTERM)
            assert interrupts.save and interrupts.reason is None
            signal.raise_signal(signal.SIGUSR2)
            assert interrupts.reason == "SIGUSR2" and told == []
        interrupts.forward()
        assert told == [signal.SIGUSR2]
        with pytest.raises(KeyboardInterrupt), Interrupts(lambda text: None) as interrupts:
            signal.raise_signal(signal.SIGUSR2)  # nothing is unsaved
        interrupts.forward()
        assert told == [signal.SIGUSR2] * 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_run_can_start_from_any_process_of_another(build, undisturbed, tmp_path):
    execute(build("checkpoint.every=12", "checkpoint.keep=0"), tmp_path / "run")
    saved = checkpoints.at_step(tmp_path / "run", 24)
    metrics = undisturbed[0].set_index(["process", "step"])["loss"]

    onward = build(start=branch(saved.arrays, "discrete"), kick=0.0).simulation
    assert onward.takes_over and onward.warm_start == 0
    for _ in onward:
        pass
    found = onward.metrics.set_index(["process", "step"])["loss"]
    assert found["discrete", 0] == metrics["discrete", 24]
    from_flow = build(start=branch(saved.arrays, "central")).simulation
    assert float(from_flow.problem.loss(from_flow.problem.w0)) == pytest.approx(
        metrics["central", 24], rel=1e-14
    )
    # The second moments came along: the next step differs from that of the run itself by its kick alone.
    assert found["discrete", 1] == pytest.approx(metrics["discrete", 25], rel=1e-2)
    afresh = build(start=branch(saved.arrays, "discrete")._replace(optimizer={}), kick=0.0).simulation
    assert not afresh.takes_over and afresh.warm_start == 5

    with pytest.raises(UserError, match="no rod process to start from; there is central, discrete"):
        branch(saved.arrays, "rod")
    with pytest.raises(UserError, match="no checkpoint of step 25, only of 12, 24, 36"):
        checkpoints.at_step(tmp_path / "run", 25)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("checkpoint.every=5 minutes", "a time as in 30s, 5min or 2h"),
        ("checkpoint.every=0", "must be a number of steps"),
        ("checkpoint.keep=-1", "0 for all"),
        ("init.step=3", "init.step needs the run to start from"),
        ("devices=0", "devices must be a whole number of at least 1"),
        ("checkpoint.evry=3", "did you mean checkpoint.every"),
    ],
)
def test_bad_settings_are_one_sentence(text, words):
    with pytest.raises(UserError, match=words):
        composing.compose([text])


def test_time_between_checkpoints_is_read():
    every = {"30s": 30, "1.5 min": 90, "2h": 7200}
    assert {t: CheckpointSettings(t, 2).seconds for t in every} == every
    assert CheckpointSettings(40, 2).steps == 40 and json.dumps(None) == "null"
