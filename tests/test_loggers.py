"""Loggers: each step once, through kills; and nothing that one does reaches the run."""

import csv
import importlib
import json
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from toys import Simulated

from cflow_cli.config import composing
from cflow_cli.config.checking import check
from cflow_cli.errors import UserError
from cflow_cli.loggers.base import Ending, Logger, RunInfo
from cflow_cli.report import listing, summary
from cflow_cli.runs import launching, tracking
from cflow_cli.runs.run import Prepared, execute
from cflow_cli.storage import read_run

LOSS = {step: 1 / (1 + step) for step in range(6)}
TAGS = ["tags=[a,b]", "notes='what it is for'"]


class Killed(BaseException):
    """Ends a run as SIGKILL does: nothing is written any more."""


@dataclass
class Own(Logger):
    """Keeps what it is given."""

    runs: list = field(default_factory=list)
    steps: list = field(default_factory=list)
    endings: list = field(default_factory=list)

    def open(self, run):
        self.runs.append(run)
        return {"place": "here"}

    def log(self, step, values):
        assert values == {"discrete/loss": LOSS[step]}
        self.steps.append(step)

    def close(self, ending):
        self.endings.append(ending)


def run(folder, loggers, *overrides, event=lambda: None, describe=None):
    cfg = composing.compose(["steps=6", *TAGS, *overrides])
    prepared = Prepared(cfg, check(cfg).settings, Simulated(event), "cpu", "data", {}, loggers=loggers)
    result = execute(prepared, folder, describe=describe)
    return result, read_run(folder)


def picture(folder, status):
    """What the report gives at the end, without a report."""
    Image.new("RGB", (6, 4), (0, 128, 255)).save(folder / "panel.png")
    return Ending(status, {"final_loss": 0.25, "status": status}, folder / "panel.png")


def wait_for(reached):
    end = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.01)


def killed_and_resumed(folder, name, make, *overrides, let_go=lambda logger: None):
    """A run that is killed with four steps at the logger, and goes on from its checkpoint, or else from its start."""

    def kill():
        state = folder / "loggers" / f"{name}.json"
        wait_for(lambda: state.exists() and json.loads(state.read_text())["step"] == 4)
        time.sleep(0.1)  # the logger is told of its steps right after that
        raise Killed

    killed = make()
    with pytest.raises(Killed):
        run(folder, {name: killed}, *overrides, event=kill)
    let_go(killed)  # of what only the end of its process would
    (before,) = [json.loads(path.read_text()) for path in (folder / "loggers").iterdir()]
    result, found = run(folder, {name: make()}, *overrides, describe=picture)
    assert result.status == "done" and found.metrics["step"].tolist() == list(range(6))
    said = found.manifest["loggers"][name]
    assert said["id"] == before["memory"].get("id", before["id"]) and said["step"] == 6 and "note" not in said
    return found


@pytest.mark.parametrize("every", ["2", "null"])
def test_each_step_is_given_once_whatever_is_done_again(every, tmp_path):
    own, folder = Own(), tmp_path / "run"
    killed_and_resumed(folder, "own", lambda: own, f"checkpoint.every={every}")
    assert own.steps == list(range(6))
    first, again = own.runs
    assert first.id == again.id and first.memory == {} and again.memory == {"place": "here"}
    assert (first.name, first.tags, first.notes) == ("run", ("a", "b"), "what it is for")
    assert first.config["model.widths"] == [32, 32] and first.config["lr"] == 0.2
    (ending,) = own.endings
    assert ending.status == "done" and ending.summary["final_loss"] == 0.25 and ending.panel.exists()


def test_tags_and_notes_are_told_of_a_run(tmp_path):
    _, found = run(tmp_path / "run", {})
    assert found.manifest["tags"] == ["a", "b"] and found.manifest["notes"] == "what it is for"
    (row,) = listing.list_runs([tmp_path])
    assert row.what.endswith("#a #b")
    about = summary.summarise_folder(tmp_path / "run").about
    assert about["tags"] == "a, b" and about["notes"] == "what it is for"


def test_what_is_not_known_is_not_sent():
    metrics = {
        "step": np.array([0, 0, 2]),
        "process": np.array(["discrete", "central", "central"], object),
        "status": np.array(["ok"] * 3, object),
        "loss": np.array([1.5, np.nan, np.inf]),
        "num_critical": np.array([2, -1, 0], np.int32),
        "shift": np.array([np.nan, -3.0, -4.0]),
    }
    assert list(tracking.scalars(metrics)) == [
        (0, {"discrete/loss": 1.5, "discrete/num_critical": 2, "central/shift": -3.0}),
        (2, {"central/num_critical": 0, "central/shift": -4.0}),
    ]


def test_a_logger_that_wants_fewer_steps_gets_fewer(tmp_path):
    own = Own(every=3)
    run(tmp_path / "run", {"own": own})
    assert own.steps == [0, 3]


# --- loggers that go wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["open", "log", "flush", "close"])
@pytest.mark.parametrize("error", [ConnectionError("the server\nis away"), SystemExit(3)])
def test_a_logger_that_fails_is_told_once_and_leaves_the_run_alone(method, error, tmp_path, capsys):
    bad, good = Own(), Own()

    def fail(*args):
        raise error

    setattr(bad, method, fail)
    result, found = run(tmp_path / "run", {"bad": bad, "good": good})
    words = "ConnectionError: the server is away" if isinstance(error, OSError) else "SystemExit: 3"
    assert result.status == found.status == "done" and found.metrics["step"].tolist() == list(range(6))
    assert capsys.readouterr().err == f"warning: logger bad: {words}; the run is not affected\n"
    assert found.manifest["loggers"]["bad"]["note"] == words
    assert "note" not in found.manifest["loggers"]["good"] and good.steps == list(range(6))


@pytest.mark.parametrize("method", ["open", "log", "close"])
def test_a_logger_that_hangs_holds_nothing_up(method, tmp_path, capsys):
    own, over = Own(wait=0.05), threading.Event()
    setattr(own, method, lambda *args: over.wait(60))
    result, found = run(tmp_path / "run", {"own": own})
    over.set()
    assert result.status == "done" and found.metrics["step"].tolist() == list(range(6))
    assert "it had not finished 0.05 s after the end of the run" in capsys.readouterr().err
    assert "not finished" in found.manifest["loggers"]["own"]["note"]


def test_a_logger_that_is_too_slow_misses_steps_and_that_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "_QUEUE", 1)
    own, first, over = Own(), threading.Event(), threading.Event()

    def slow(step, values):
        own.steps.append(step)
        first.set()
        over.wait(60)

    own.log = slow

    def release(folder, status):
        over.set()
        return Ending(status)

    run(tmp_path / "run", {"own": own}, event=lambda: first.wait(60), describe=release)
    left_out = 6 - len(own.steps)
    assert left_out in (2, 4) and own.steps == list(range(len(own.steps)))
    assert f"it was too slow, and {left_out} steps were not sent" in capsys.readouterr().err
    assert own.endings == [Ending("done")]


def test_a_picture_that_cannot_be_drawn_is_told(tmp_path, capsys):
    def describe(folder, status):
        raise UserError("nothing to draw")

    own = Own()
    result, _ = run(tmp_path / "run", {"own": own}, describe=describe)
    assert result.status == "done" and own.endings == [Ending("done")]
    assert capsys.readouterr().err == "warning: no picture for the loggers: nothing to draw\n"


def test_the_command_does_not_wait_for_a_logger_that_hangs():
    program = """
import atexit, threading, time
from cflow_cli import cli
atexit.register(time.sleep, 600)
threading.Thread(target=time.sleep, args=(600,), name="logger own", daemon=True).start()
cli.main = lambda: 3
cli.entry()
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=300).returncode == 3


# --- choosing them ---------------------------------------------------------------------------------


def test_several_are_chosen_each_with_its_keys():
    cfg = composing.compose(["logger=[csv,tensorboard]", "logger.csv.every=5", "logger.csv.folder=x"])
    loggers = check(cfg).loggers
    assert list(loggers) == ["csv", "tensorboard"]
    assert (loggers["csv"].every, loggers["csv"].folder, loggers["tensorboard"].every) == (5, "x", 1)
    assert list(check(composing.compose(["logger=csv"])).loggers) == ["csv"]
    assert check(composing.compose()).loggers == {}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["logger=csv", "logger.csv.every=0"], "logger.csv: every must be at least 1, got 0"),
        (["logger=csv", "logger.csv.wait=-1"], "wait must not be negative"),
        (["logger=csv", "logger.csv.foldr=x"], "did you mean logger.csv.folder?"),
        (["logger=wandbb"], "did you mean wandb?"),
        (["logger.wandb.project=x"], "logger.wandb.project needs logger=wandb, which is not chosen"),
        (["logger=csv", "logger.csv._target_=pathlib.Path"], "logger.csv: pathlib.Path is no logger"),
        (["tags=a"], "tags must be a list, as in 'tags=[a,b]', got 'a'"),
        (["tags=[[a]]"], "tags must be a list of words"),
    ],
)
def test_bad_settings_are_one_sentence(overrides, words):
    with pytest.raises(UserError) as raised:
        composing.compose(overrides)
    assert words in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("choice", "package"), [("wandb", "wandb"), ("mlflow", "mlflow"), ("tensorboard", "tensorboardX")]
)
def test_a_missing_package_is_told_before_anything_starts(choice, package, monkeypatch):
    for name in list(sys.modules):
        if name.startswith(f"{package}.") or name == f"cflow_cli.loggers.{choice}":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    wanted = rf"logger\.{choice} needs the package {package}; pip install 'cflow-cli\[{choice}\]' brings it"
    with pytest.raises(UserError, match=wanted):
        composing.compose([f"logger={choice}"])


def test_a_run_that_goes_on_keeps_its_loggers_and_may_change_their_keys(tmp_path):
    run(tmp_path / "run", {}, "logger=csv")
    with pytest.raises(UserError, match="chosen when it begins; afterwards their keys can change"):
        launching.resume(tmp_path / "run", ["logger=tensorboard"])
    again = launching.resume(tmp_path / "run", ["logger.csv.every=2", "tags=[c]"])
    assert again is None  # done already, and the same run


# --- the trackers ----------------------------------------------------------------------------------


def test_csv(tmp_path):
    module = importlib.import_module("cflow_cli.loggers.csv")
    folder = tmp_path / "run"
    killed_and_resumed(folder, "csv", module.CSV, let_go=lambda logger: logger._file.close())
    table = pd.read_csv(folder / "csv" / "scalars.csv")
    assert table.to_dict("list") == {"step": list(range(6)), "discrete/loss": list(LOSS.values())}
    config = dict(csv.reader((folder / "csv" / "config.csv").read_text().splitlines()))
    assert config["lr"] == "0.2" and config["tags"] == "a, b" and config["notes"] == "what it is for"
    assert (folder / "csv" / "summary.csv").read_text().splitlines()[1:] == ["final_loss,0.25", "status,done"]
    assert (folder / "csv" / "panel.png").read_bytes() == (folder / "panel.png").read_bytes()


def test_csv_gets_columns_as_they_come_and_loses_half_a_line(tmp_path):
    logger = importlib.import_module("cflow_cli.loggers.csv").CSV(folder=str(tmp_path / "all"))
    memory = logger.open(RunInfo("run", tmp_path, "id"))
    table = tmp_path / "all" / "run" / "scalars.csv"
    logger.log(0, {"a": 1.5})
    logger.log(1, {"a": 2.5, "b": 3})
    logger.flush()
    with table.open("a") as file:
        file.write("2,0.")
    logger._file.close()
    logger.open(RunInfo("run", tmp_path, "id", memory=memory))
    logger.log(2, {"b": 4})
    logger.close(Ending("interrupted"))
    assert table.read_text().split() == ["step,a,b", "0,1.5,", "1,2.5,3", "2,,4"]


def test_tensorboard(tmp_path):
    module = pytest.importorskip("cflow_cli.loggers.tensorboard", exc_type=ImportError)
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = tmp_path / "run"
    killed_and_resumed(folder, "tensorboard", module.TensorBoard)
    found = reading.EventAccumulator(str(folder / "tensorboard")).Reload()
    points = [(point.step, point.value) for point in found.Scalars("discrete/loss")]
    assert points == [(step, pytest.approx(loss)) for step, loss in LOSS.items()]
    texts = {
        tag: found.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in found.Tags()["tensors"]
    }
    assert texts["tags/text_summary"] == "a, b" and texts["notes/text_summary"] == "what it is for"
    assert "| final_loss | 0.25 |" in texts["summary/text_summary"]
    (image,) = found.Images("panel")
    assert (image.width, image.height, image.step) == (6, 4, 5)
    hparams = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"model.widths" in hparams


def records(path, kind):
    """Records of a .wandb file: blocks of 32 KiB of pieces with a head of seven bytes each, as in LevelDB's log."""
    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, part = struct.unpack("<IHB", data[place : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if part in (1, 4):
            record = kind()
            record.ParseFromString(whole)
            yield record
            whole = b""


def test_wandb_offline(tmp_path):
    module = pytest.importorskip("cflow_cli.loggers.wandb", exc_type=ImportError)
    proto = importlib.import_module("wandb.proto.wandb_internal_pb2")
    folder = tmp_path / "run"
    found = killed_and_resumed(folder, "wandb", module.WandB, let_go=lambda logger: logger._run.finish())
    assert found.manifest["loggers"]["wandb"]["project"] == "cflow"
    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert len({path.name for path in files}) == 1
    everything = [record for path in files for record in records(path, proto.Record)]
    began = [record.run for record in everything if record.HasField("run")]
    assert {r.run_id for r in began} == {found.manifest["loggers"]["wandb"]["id"]}
    assert list(began[0].tags) == ["a", "b"] and began[0].notes == "what it is for"
    assert any(update.key == "lr" and update.value_json == "0.2" for update in began[0].config.update)
    steps = []
    for record in everything:
        items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        if "discrete/loss" in items:
            assert float(items["discrete/loss"]) == LOSS[int(items["_step"])]
            steps.append(int(items["_step"]))
    assert steps == list(range(6))
    assert list((folder / "wandb").glob("offline-run-*/files/media/images/panel*.png"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what MLflow brings
def test_mlflow_in_a_local_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    module = pytest.importorskip("cflow_cli.loggers.mlflow", exc_type=ImportError)
    uri = f"sqlite:///{tmp_path}/store.db"
    folder = tmp_path / "run"
    found = killed_and_resumed(folder, "mlflow", lambda: module.MLflow(uri=uri))
    client = module.MlflowClient(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "cflow"]
    (stored,) = client.search_runs([experiment.experiment_id])
    assert stored.info.run_id == found.manifest["loggers"]["mlflow"]["id"]
    assert stored.info.run_name == "run" and stored.info.status == "FINISHED"
    assert stored.data.params["lr"] == "0.2" and stored.data.tags["a"] == "true"
    assert stored.data.tags["mlflow.note.content"] == "what it is for"
    assert stored.data.metrics["summary/final_loss"] == 0.25
    points = client.get_metric_history(stored.info.run_id, "discrete/loss")
    assert {point.step: point.value for point in points} == LOSS and len(points) == 6
    assert [artifact.path for artifact in client.list_artifacts(stored.info.run_id)] == ["panel.png"]
