"""A folder from somebody else, and a config, build nothing but what they are for: nothing that they name is executed."""

import io
import json
import pathlib
import pickle
import sys
import tarfile

import joblib
import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from strategies import plain

from cflow_cli import cli
from cflow_cli.commands import completion
from cflow_cli.commands.starting import REPORTER
from cflow_cli.config import targets
from cflow_cli.config.building import build
from cflow_cli.config.composing import compose
from cflow_cli.errors import UserError
from cflow_cli.runs import launching, sweeping

GOOD = plain(compose(["steps=2"]))


class Payload:
    """What leaves a file MARKER when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.fixture
def armed(tmp_path, monkeypatch):
    """A folder with files that run when the wrong function reads them, and in the end no MARKER."""
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "MARKER"
    run = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(Payload(marker)))
    np.save(tmp_path / "bad.npy", np.array([Payload(marker)], dtype=object), allow_pickle=True)
    joblib.dump(Payload(marker), tmp_path / "bad.joblib")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "bad.pth").write_text(f"import os; {run}\n")
    (tmp_path / "bad.py").write_text(f"{run}\ndef f(*a, **k): {run}\n")
    # They do what they are there for: without this the tests could not fail.
    pd.read_pickle(tmp_path / "bad.pkl")
    assert marker.exists()
    marker.unlink()
    yield tmp_path
    assert not marker.exists()


# Each is a whole node of a config, put where its first word says.
HOSTILE = {
    "os.system": ("model", {"_target_": "os.system", "command": "touch MARKER"}),
    "listed": ("model", {"_target_": "os.system", "_args_": ["touch MARKER"]}),
    "popen": ("data", {"_target_": "os.popen", "cmd": "touch MARKER"}),
    "subprocess": ("loss", {"_target_": "subprocess.check_output", "args": ["touch", "MARKER"]}),
    "eval": ("optimizer", {"_target_": "builtins.eval", "_args_": ["open('MARKER', 'w')"]}),
    "exec": ("schedule", {"_target_": "builtins.exec", "_args_": ["open('MARKER', 'w')"]}),
    "open": ("data", {"_target_": "io.open", "file": "MARKER", "mode": "w"}),
    "pandas": ("data", {"_target_": "pandas.read_pickle", "filepath_or_buffer": "bad.pkl"}),
    "numpy": ("data", {"_target_": "numpy.load", "file": "bad.npy", "allow_pickle": True}),
    "joblib": ("data", {"_target_": "joblib.load", "filename": "bad.joblib"}),
    "site": ("model", {"_target_": "site.addsitedir", "sitedir": "site"}),
    "runpy": ("processes.central", {"_target_": "runpy.run_path", "path_name": "bad.py"}),
    "import": ("measurements.sharpness", {"_target_": "bad.f"}),
    "hydra": (
        "model",
        {"_target_": "hydra.utils.call", "config": {"_target_": "os.system", "command": "touch MARKER"}},
    ),
    "method": ("loss", {"_target_": "hydra.utils.get_method", "path": "os.system"}),
    "partial": ("optimizer", {"_target_": "functools.partial", "_args_": ["os.system", "touch MARKER"]}),
    "nested": (
        "optimizer",
        {"_target_": "optax.sgd", "learning_rate": {"_target_": "os.system", "_args_": ["touch MARKER"]}},
    ),
    "deep": ("model", GOOD["model"] | {"widths": [{"_target_": "os.system", "command": "touch MARKER"}]}),
    "through ours": (
        "data",
        {"_target_": "cflow_cli.datasets.npz.np.load", "file": "bad.npy", "allow_pickle": True},
    ),
    "shutil": (
        "data",
        {"_target_": "cflow_cli.datasets.fetch.shutil.copy", "src": "bad.py", "dst": "MARKER"},
    ),
    "download": (
        "data",
        {"_target_": "cflow_cli.datasets.fetch.download", "url": "file:bad.py", "part": "MARKER"},
    ),
    "through optax": (
        "optimizer",
        {"_target_": "optax.jax.numpy.load", "_args_": ["bad.npy"], "allow_pickle": True},
    ),
    "top": ("_target_", "os.system"),
    "resolver": ("name", "${oc.create:'{_target_: os.system, command: touch MARKER}'}"),
    "environment": ("name", "${oc.env:HOME}"),
    "eigs": ("eigs", {"_target_": "os.system", "command": "touch MARKER"}),
}


def received(folder, where, node):
    """A run folder whose config has a node of somebody else's."""
    config = OmegaConf.to_container(OmegaConf.create(GOOD))
    *path, last = where.split(".")
    inside = config
    for key in path:
        inside = inside[key]
    inside[last] = node
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"status": "interrupted", "step": 1, "choices": {}}))
    (folder / "config.yaml").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", HOSTILE)
def test_a_run_folder_is_data(name, armed, capsys):
    """Without anybody's word, and with it: what is no model of anything is not called either way."""
    where, node = HOSTILE[name]
    folder = received(armed / "run", where, node)
    before = set(sys.modules)
    assert cli.main(["resume", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert "bad" not in set(sys.modules) - before
    if "environment" not in name and "bad" not in str(node.get("_target_") if isinstance(node, dict) else ""):
        with pytest.raises(UserError):
            launching.resume(folder, trust=True)
    assert not (folder / "metrics").exists()


@pytest.mark.parametrize(
    "name", [name for name in HOSTILE if isinstance(HOSTILE[name][1], dict) and name != "import"]
)
def test_a_target_that_is_nothing_of_the_kind_is_not_called(name, armed):
    where, node = HOSTILE[name]
    with pytest.raises(UserError):
        build(OmegaConf.create(node), where)


def test_the_sentence_names_what_is_foreign_and_how_it_is_trusted(armed, capsys):
    folder = received(armed / "run", "model", {"_target_": "their_models.Net"})
    assert cli.main(["resume", str(folder)]) == 2
    said = capsys.readouterr().err
    assert all(words in said for words in ("their_models.Net", "--config-dir", "--trust", "config.yaml"))


def test_what_one_s_own_folder_of_configs_names_is_trusted(armed, monkeypatch):
    own = armed / "own" / "model"
    own.mkdir(parents=True)
    (own / "net.yaml").write_text("_target_: my_models.Net\nwidth: 3\n")
    folder = received(armed / "run", "model", {"_target_": "my_models.Other", "width": 3})
    reached = []
    monkeypatch.setattr(launching, "prepare", lambda cfg, **_: reached.append(cfg.model) or sys.exit())
    with pytest.raises(SystemExit):
        launching.resume(folder, config_dir=armed / "own")
    with pytest.raises(SystemExit):
        launching.resume(folder, trust=True)
    assert [node["_target_"] for node in reached] == ["my_models.Other"] * 2
    (own / "net.yaml").write_text("_target_: my_modelz.Net\n")
    with pytest.raises(UserError, match=r"my_models\.Other"):
        launching.resume(folder, config_dir=armed / "own")


def test_a_link_out_of_the_folder_is_not_followed(armed):
    folder = received(armed / "run", "name", "mine")
    (armed / "diary").write_text("mine")
    (folder / "run.log").symlink_to(armed / "diary")
    with pytest.raises(UserError, match=r"run\.log is a link"):
        launching.resume(folder)
    assert (armed / "diary").read_text() == "mine"


def test_no_tracker_goes_where_a_folder_says(tmp_path, monkeypatch):
    """Neither by its config, nor by what a tracker remembered; the user's own store is no stranger's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launching, "check", lambda _: sys.exit())  # before any tracker is looked for
    target = "cflow_cli.loggers."
    mlflow = {"_target_": target + "mlflow.MLflow", "uri": "sqlite:///mlflow.db"}
    for number, (logger, uri, told) in enumerate(
        (
            ({"mlflow": mlflow | {"uri": "http://their.place"}}, None, r"logger\.mlflow\.uri=http"),
            (
                {"csv": {"_target_": target + "csv.CSV", "folder": "/else"}},
                None,
                r"logger\.csv\.folder=/else",
            ),
            ({"wandb": {"_target_": target + "wandb.WandB", "entity": "they"}}, None, r"wandb\.entity=they"),
            ({"mlflow": mlflow}, "sqlite:////else/mlflow.db", "goes to sqlite:////else"),
            ({"mlflow": mlflow}, f"sqlite:///{tmp_path}/mlflow.db", None),
        )
    ):
        folder = received(tmp_path / str(number), "logger", logger)
        if uri is not None:
            (folder / "loggers").mkdir()
            remembered = {"id": "x", "step": 0, "memory": {"uri": uri}}
            (folder / "loggers" / "mlflow.json").write_text(json.dumps(remembered))
        with pytest.raises(SystemExit):
            launching.resume(folder, trust=True)
        with pytest.raises(UserError if told else SystemExit, match=told):
            launching.resume(folder)


SWEEPS = {
    "callback": {"overrides": ["+hydra.callbacks.x={_target_:os.system,command:'touch MARKER'}"]},
    "logging": {"overrides": ["hydra.job_logging.handlers.file.class=os.system"]},
    "plugin": {"overrides": ["hydra/job_logging=theirs"]},
    "search path": {"overrides": ["hydra.searchpath=[file://theirs]"]},
    "launcher": {"overrides": ["launcher=submitit_local", "hydra.launcher._target_=os.system"]},
    "shell": {"overrides": ["launcher=slurm", "launcher.setup=['touch MARKER']"]},
    "sbatch": {"overrides": ["launcher=slurm", "launcher.additional_parameters.wrap='touch MARKER'"]},
    "line": {"overrides": ["launcher=slurm", "launcher.partition='a\\n#SBATCH --wrap=x'"]},
    "target": {"jobs": [{"number": 0, "overrides": ["model._target_=os.system"], "folder": "0"}]},
    "swept": {"overrides": ["model._target_=os.system,subprocess.run"]},
    "node": {
        "jobs": [
            {"number": 0, "overrides": ["++model={_target_:os.system,command:'touch MARKER'}"], "folder": "0"}
        ]
    },
    "made up": {"jobs": [{"number": 0, "overrides": ["name='${oc.create:x}'"], "folder": "0"}]},
    "elsewhere": {"jobs": [{"number": 0, "overrides": ["lr=0.1"], "folder": "../../else"}]},
    "tracker": {"overrides": ["logger=mlflow", "logger.mlflow.uri=http://their.place"]},
    "configs": {"config_dir": "theirs"},
    "unreadable": {"overrides": ["[" * 3000]},
}


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_folder_is_data(name, armed):
    folder = armed / "sweep"
    folder.mkdir()
    content = {
        "axes": {},
        "launches": [],
        "overrides": [],
        "config_dir": None,
        "working_directory": str(armed),
    }
    content["jobs"] = [{"number": 0, "overrides": ["lr=0.1"], "folder": "0"}]
    (folder / "sweep.json").write_text(json.dumps(content | SWEEPS[name]))
    with pytest.raises(UserError, match=r"sweep\.json") as raised:
        sweeping.resume(folder, [], REPORTER)
    assert "\n" not in str(raised.value)
    assert [path.name for path in folder.iterdir()] == ["sweep.json"]


# --- what is allowed ------------------------------------------------------------------------------------


def test_components_of_one_s_own_are_found_where_pythonpath_leads(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_parts.py").write_text(
        "import os\nimport optax\nfrom pandas import read_pickle\n"
        "def opt(learning_rate, parts=(), depth: int = 2):\n    return optax.sgd(learning_rate)\n"
        "def wrong(learning_rate):\n    return 3\n"
        "class Part:\n    def __init__(self, size: int): self.size = size\n"
    )
    sgd = OmegaConf.create(
        {
            "_target_": "my_parts.opt",
            "learning_rate": 0.1,
            "parts": [{"_target_": "my_parts.Part", "size": 3.0}],
        }
    )
    assert callable(build(sgd, "optimizer").update)
    for node, said in (
        ({"_target_": "my_parts.wrong", "learning_rate": 1}, "made a int, which is no optimizer"),
        ({"_target_": "my_parts.read_pickle", "learning_rate": 1}, "is no optimizer"),
        ({"_target_": "my_parts.os.system", "learning_rate": 1}, "no module my_parts.os"),
        ({"_target_": "my_parts.absent"}, "has no absent"),
        ({"_target_": "my_absent.opt"}, "PYTHONPATH"),
        ({"_target_": "my_parts.opt"}, "missing a required argument: 'learning_rate'"),
        (
            {"_target_": "my_parts.opt", "learning_rate": 1, "depth": 2.5},
            "optimizer.depth must be a whole number",
        ),
        ({"_target_": "my_parts.opt", "learning_rate": 1, "_partial_": True}, "made a partial, which is no"),
        ({"_target_": "my_parts.opt", "learning_rate": 1, "_recursive_": False}, "only _args_"),
    ):
        with pytest.raises(UserError, match="optimizer") as raised:
            build(OmegaConf.create(node), "optimizer")
        assert said in str(raised.value)


def test_every_transformation_and_schedule_of_optax_may_be_named():
    import optax

    chain = {
        "_target_": "optax.chain",
        "_args_": [
            {"_target_": "optax.clip", "max_delta": 1.0},
            {"_target_": "optax.sgd", "learning_rate": 0.1},
        ],
    }
    assert callable(build(OmegaConf.create(chain), "optimizer").update)
    for name in ("adam", "lion", "nadam", "contrib.prodigy", "scale_by_factored_rms"):
        assert targets.find("optimizer", f"optax.{name}")
    assert targets.find("schedule", "optax.join_schedules") is optax.join_schedules
    for where, name in (
        ("optimizer", "cosine_decay_schedule"),
        ("schedule", "adam"),
        ("model", "adam"),
        ("optimizer", "global_norm"),
    ):
        with pytest.raises(UserError, match="is no"):
            targets.find(where, f"optax.{name}")


def test_completion_offers_no_file_whose_name_is_a_command(tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("mine", "$(touch MARKER)", "`touch MARKER`", "a;touch MARKER", "x\ny"):
        (tmp_path / "model" / f"{name}.yaml").write_text("_target_: mine.Model\n")
    found = completion.complete(f"cflow run --config-dir {tmp_path} model=", [])
    assert "model=mine " in found and not any(set("$`;\n") & set(word) for word in found)


# --- downloads ------------------------------------------------------------------------------------------


def test_an_archive_writes_nothing_but_the_files_of_its_data_set(tmp_path):
    from hashlib import sha256

    from cflow_cli.datasets.fetch import Archive, fetch

    def archive(*members):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for name, link in members:
                info = tarfile.TarInfo(name)
                info.type, info.linkname, info.size = (
                    (tarfile.SYMTYPE, link, 0) if link else (tarfile.REGTYPE, "", 3)
                )
                tar.addfile(info, None if link else io.BytesIO(b"abc"))
        (tmp_path / "c.tar.gz").write_bytes(buffer.getvalue())
        return Archive(
            (tmp_path / "c.tar.gz").as_uri(), sha256(buffer.getvalue()).hexdigest(), "data", ("one",)
        )

    to = tmp_path / "to" / "here"
    hostile = [("../../outside", ""), (str(tmp_path / "absolute"), ""), ("data/../two", ""), ("data", "/etc")]
    fetch("cifar10", to, archive(*hostile, ("data/one", "")))
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "c.tar.gz",
        "to",
        "to/here",
        "to/here/data",
        "to/here/data/one",
    ]
    (to / "data" / "one").unlink()
    with pytest.raises(UserError, match="no plain file data/one"):
        fetch("cifar10", to, archive(("data/one", "/etc/hostname")))
    with pytest.raises(UserError, match="lacks data/one"):
        fetch("cifar10", to, archive(("data/other", "")))
