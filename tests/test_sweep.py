"""Sweeps: what they consist of, how their cells stand, and how the unfinished are continued."""

import datetime
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml
from omegaconf import OmegaConf

from cflow_cli.cli import main
from cflow_cli.commands import completion
from cflow_cli.commands.report import main as report
from cflow_cli.commands.starting import REPORTER
from cflow_cli.config import checking, composing, tree
from cflow_cli.errors import UserError
from cflow_cli.report import listing
from cflow_cli.runs import gpus, launching, slurm, sweeping, sweeps

ROOT = Path(__file__).resolve().parents[1]
TINY = ["data.n=50", "data.n_test=null", "model.widths=[8]", "processes=[discrete]"]
PATIENCE = 240
# Not imported here: submitit sets up logging at its import, which closes what pytest captures with.
HAS_SUBMITIT = importlib.util.find_spec("submitit") is not None


def planned(*overrides):
    with composing.hydra_session() as hydra:
        return sweeping.plan(hydra, overrides, None, REPORTER)[1:3]


# --- planning --------------------------------------------------------------------------------------


def test_any_key_is_an_axis():
    axes, jobs = planned("seed=range(3)", "optimizer=gd,rmsprop", "steps=20", "launcher=basic")
    assert axes == {"optimizer": ["gd", "rmsprop"], "seed": ["0", "1", "2"]}
    assert [job.number for job in jobs] == list(range(6)) and jobs[5].folder == "5"
    assert jobs[1].overrides == ("seed=0", "optimizer=rmsprop", "steps=20")
    axes, jobs = planned("optimizer=glob(adam*)", "experiment=rates", "lr=0.1,0.2")
    assert axes["optimizer"] == ["adam", "adam_uncorrected", "adamw"] and axes["lr"] == ["0.1", "0.2"]
    assert len(jobs) == 6


def test_an_experiment_brings_its_axes():
    axes, jobs = planned("experiment=optimizers")
    assert axes == {"optimizer": ["gd", "rmsprop", "adam"], "seed": ["0", "1", "2"]} and len(jobs) == 9
    assert composing.compose(["experiment=quick"]).model.widths == [16]


def test_each_cell_of_a_sweep_is_checked_before_anything_is_written(monkeypatch):
    checked, composed = [], []
    check, compose = checking.check, composing.composed
    monkeypatch.setattr(
        launching,
        "check",
        lambda cfg: checked.append((cfg.lr, cfg.seed, cfg.optimizer.get("b2"))) or check(cfg),
    )
    monkeypatch.setattr(
        composing, "composed", lambda *args, **kw: composed.append(args) or compose(*args, **kw)
    )
    planned("lr=0.1,0.2,0.3", "seed=range(4)", "optimizer=adam,nadam")
    assert sorted(checked) == sorted([(lr, seed, 0.999) for lr in (0.1, 0.2, 0.3) for seed in range(4)] * 2)
    assert len(composed) == 3  # the whole, and each choice of groups
    for bad, words in (
        (["lr=0.1,-1"], "got -1"),
        (["steps=9,x"], "got 'x'"),
        (["eigs.every=1,0.5"], "eigs.every"),
        (["steps=100,3", "warm_start=0,50"], "warm_start must be a whole number from 0 to 3, got 50"),
        (
            ["processes=[discrete,central],[discrete]", "objective=loss_error.central"],
            "objective=loss_error.central",
        ),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            planned("seed=range(5)", *bad)


def test_rates_relative_to_each_optimizers_own(monkeypatch):
    rates = set()
    monkeypatch.setattr(
        launching,
        "check",
        lambda cfg: rates.add((cfg.optimizer["_target_"], cfg.lr_factor)) or checking.check(cfg),
    )
    planned("optimizer=gd,adam", "lr_factor=0.5,3")
    assert rates == {(name, factor) for name in ("optax.sgd", "optax.adam") for factor in (0.5, 3)}
    for overrides, lr in (
        (["optimizer=adam"], 0.015),
        (["lr=0.1"], 0.3),  # not 0.30000000000000004
        (["optimizer=rmsprop", "schedule=cosine"], 0.003),
    ):
        cfg = composing.compose([*overrides, "lr_factor=3"])
        rate = cfg.optimizer.learning_rate
        assert cfg.lr == lr == (rate if isinstance(rate, float) else rate.init_value)


def test_a_dry_run_shows_the_config_of_every_run_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    show = ["run", "hydra.mode=MULTIRUN", "--cfg", "job", "--package", "optimizer", "--resolve"]
    assert main([*show, "optimizer=gd,adam", "lr_factor=0.5,2"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# sweep of 4 runs: lr_factor = 0.5, 2; optimizer = gd, adam\n")
    assert "--- # run 2 of 4, in 1/: optimizer=gd lr_factor=2\n" in shown
    assert [node["learning_rate"] for node in yaml.safe_load_all(shown)] == [0.1, 0.4, 0.0025, 0.01]
    assert main(["run", "--info", "searchpath"]) == 0
    assert str(tree.conf_dir()) in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_run_says_which_one_of_the_sweep_it_is(tmp_path):
    def ended(seconds):
        return {"status": "done", "finished": moment(seconds)}

    folder = a_sweep(tmp_path / "grid", [ended(700), ended(300), ended(100), None, None], started=moment(600))
    # Two have ended in the ten minutes since the launch; the first is of before.
    sweep = sweeps.read(folder)
    assert sweeps.headline(sweep, "3", []) == "run 4 of 5 · seed=3 · about 15 min left"
    content = sweep.content | {"axes": {}, "jobs": None, "overrides": ["steps=9", "lr=interval(0,1)"]}
    content["launches"] = [sweep.launches[0] | {"jobs": []}]
    chosen = sweeps.headline(sweeps.Sweep(folder, content), "3", ["lr=0.25", "steps=9"], 12)
    assert chosen == "run 4 of 12 · lr=0.25 · about 50 min left"
    first = a_sweep(tmp_path / "new", [None, None])
    assert sweeps.headline(sweeps.read(first), "0", []) == "run 1 of 2 · seed=0"


@pytest.mark.filterwarnings(
    "ignore"
)  # Optuna 2, which the sweeper needs, uses what its libraries are giving up
def test_optuna_is_given_the_objective(tmp_path, monkeypatch, capsys):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    monkeypatch.chdir(tmp_path)
    optuna = ["run", "-m", "hydra/sweeper=optuna", *TINY, "steps=3"]
    for bad, words in (
        ([], "objective=loss_error.central"),
        (["objective=final_los"], "did you mean final_loss?"),
        (["objective=optimizer"], "no column of numbers"),
        (["objective=final_loss", "lr=interval(-1,1)"], "got -1"),
        (["objective=final_loss", "hydra.sweeper.direction=[minimize,minimize]"], "one objective"),
    ):
        assert main([*optuna, *bad]) == 2
        shown = capsys.readouterr()
        assert shown.err.startswith("error: ") and shown.err.count("\n") == 1 and words in shown.err
    assert list(tmp_path.iterdir()) == []
    search = ["hydra/sweeper/sampler=grid", "hydra.sweeper.n_jobs=1", "hydra.sweeper.direction=maximize"]
    search += ["objective=final.loss", "lr=0.05,7", "hydra.sweep.dir=sweep"]
    # Of the two runs one has no value: it must be the worst, also where more is better.
    program = f"""
from dataclasses import replace
from pathlib import Path
from cflow_cli.cli import main
from cflow_cli.commands import starting
from cflow_cli.runs import launching

runs = {{}}

def ran(cfg, describe):
    folder = Path("sweep", str(len(runs)))
    runs[folder] = cfg.lr
    return launching.RunResult(folder, "done" if cfg.lr < 1 else "failed")

launching._run_cell = ran
starting.REPORTER = replace(starting.REPORTER, value=lambda folder, column: 2 * runs[folder])
status = main({[*optuna, *search]})
assert sorted(runs.values()) == [0.05, 7]
raise SystemExit(status)
"""
    # Its own process, for Optuna sets up logging at its import; with the warnings of Optuna 2, which the sweeper needs.
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "final.loss: no value" in done.stdout and "final.loss: 0.1" in done.stdout
    best = yaml.safe_load(Path("sweep/optimization_results.yaml").read_text())
    assert best == {"name": "optuna", "best_params": {"lr": 0.05}, "best_value": 0.1}
    assert "best: lr=0.05 with 0.1, from sweep" in done.stdout


@pytest.mark.parametrize("launcher", sorted(tree.groups()["launcher"]))
def test_launchers_compose_with_every_key_of_their_preset(launcher):
    path = tree.groups()["launcher"][launcher]
    keys = tree.read_choice(path, "launcher").keys
    try:
        with composing.hydra_session() as hydra:
            cfg = composing.composed(hydra, [f"launcher={launcher}"], multirun=True)
    except UserError as error:
        pytest.skip(str(error))
    for key, value in keys.items():
        assert str(OmegaConf.select(cfg, f"hydra.{key}")) == str(value)
    assert "launcher" not in composing.without_hydra(cfg)


def test_no_preset_falls_into_submitits_traps():
    keys = tree.read_choice(tree.groups()["launcher"]["slurm"], "launcher").keys
    # Up to ten minutes every signal counts as a time-out, and by default the first one ends the job.
    assert keys["launcher.timeout_min"] > 10 and keys["launcher.max_num_timeout"] >= 3
    assert keys["launcher.additional_parameters.requeue"] is True


@pytest.mark.skipif(not HAS_SUBMITIT, reason="submitit is not installed")
def test_a_users_own_launcher(tmp_path, capsys):
    (tmp_path / "launcher").mkdir()
    (tmp_path / "launcher" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [slurm, _self_]\nhydra: {launcher: {partition: gpu}}\n"
    )
    show = ["run", "--config-dir", str(tmp_path), "--cfg", "hydra", "--package", "hydra.launcher"]
    assert (
        main([*show, "launcher=mine", "launcher.mem_gb=4", "launcher.additional_parameters.begin=now"]) == 0
    )
    shown = capsys.readouterr().out
    assert "partition: gpu" in shown and "mem_gb: 4" in shown and "begin: now" in shown
    assert "max_num_timeout: 20" in shown


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["run", "launcher=slurm"], "cflow run -m launcher="),
        (["run", "-m", "launcher=slurmm"], "did you mean slurm?"),
        (["run", "-m", "launcher=basic,joblib"], "one launcher"),
        (["run", "-m", "launcher.partition=gpu", "lr=0.1,0.2"], "needs its launcher"),
        (["run", "-m", "launcher=slurm", "launcher.partitio=gpu"], "did you mean launcher.partition?"),
        (["run", "-m", "launcher=slurm", "launcher.timeout_min=long"], "must be a whole number, got long"),
        (["run", "-m", "launcher=slurm", "lr=0.1,0.2"], "no sbatch here"),
        (["run", "-m", "experiment=rate"], "did you mean rates?"),
        (["run", "-m", "seed=interval(0,3)"], "sweep"),
        (["list", "nowhere"], "not an existing folder"),
        (["list", ".", "--status", "don"], "there are done"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(args, words, tmp_path, monkeypatch, capsys):
    if "launcher=slurm" in args and "-m" in args and not HAS_SUBMITIT:
        pytest.skip("submitit is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(args) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1 and words in shown.err
    assert list(tmp_path.iterdir()) == []


def test_a_launcher_that_is_not_installed(capsys):
    if importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is not None:
        pytest.skip("Ray's launcher is installed")
    assert main(["run", "-m", "launcher=ray", "lr=0.1,0.2"]) == 2
    assert "pip install 'cflow-cli[ray]'" in capsys.readouterr().err


def test_completion_knows_launchers():
    assert "launcher=slurm " in completion.complete("cflow run -m launcher=s", [])
    assert completion.complete("cflow run -m launcher=slurm launcher.pa", []) == ["launcher.partition="]


# --- standing --------------------------------------------------------------------------------------


def moment(seconds_ago):
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds_ago)
    return then.isoformat(timespec="seconds")


def gone_pid():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def a_sweep(folder, manifests, **launched):
    """A sweep over seeds, whose runs have written these manifests, or nothing."""
    launch = {"started": moment(600), "host": socket.gethostname(), "pid": os.getpid(), "launcher": "cflow_slurm",
              "jobs": list(range(len(manifests))), "job_ids": {}, "cancel": None, **launched}  # fmt: skip
    jobs = [
        {"number": n, "overrides": [f"seed={n}", "steps=9"], "folder": str(n)} for n in range(len(manifests))
    ]
    folder.mkdir(parents=True)
    content = {"axes": {"seed": [str(n) for n in range(len(manifests))]}, "jobs": jobs, "launches": [launch]}
    (folder / "sweep.json").write_text(json.dumps(content))
    for number, manifest in enumerate(manifests):
        if manifest is not None:
            (folder / str(number)).mkdir()
            (folder / str(number) / "manifest.json").write_text(json.dumps(manifest))
    return folder


def running(host, updated, **more):
    return {"status": "running", "host": host, "pid": 1, "started": moment(9000), "updated": moment(updated),
            "step": 3, "steps": 9, "wall_seconds": 30.0, **more}  # fmt: skip


def test_a_cell_stands_as_its_run_and_the_queue_say(tmp_path, monkeypatch, capsys):
    ids = {str(n): f"7_{n}" for n in range(9)}
    queue = {"7_2": "RUNNING", "7_4": "PENDING", "7_6": "PENDING", "7_7": "PENDING"}
    monkeypatch.setattr(slurm, "queued", lambda asked: queue)
    ended = {"host": "node1", "finished": moment(60), "step": 3, "steps": 9}
    folder = a_sweep(
        tmp_path / "sweep",
        [
            {"status": "done", "finished": moment(60), "step": 9, "steps": 9},
            {"status": "failed", "reason": "out of memory", **ended},
            running("node1", 5),
            running("node1", 5),  # not in the queue: killed
            None,  # in the queue
            None,  # nowhere
            {"status": "interrupted", "reason": "SIGUSR2", **ended},  # requeued
            {
                "status": "failed",
                "reason": "disk full",
                **ended,
                "finished": moment(6000),
            },  # launched again since
            {"status": "interrupted", "reason": "Ctrl-C", **ended},
        ],
        job_ids=ids,
        cancel="scancel 7",
    )
    expected = [
        "done",
        "failed",
        "running",
        "killed",
        "pending",
        "missing",
        "pending",
        "pending",
        "interrupted",
    ]
    assert [cell.status for cell in sweeps.cells(folder)] == expected
    assert report([str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "9 runs: 1 done, 1 running, 3 pending, 1 interrupted, 1 failed, 1 killed, 1 missing" in shown
    assert "failed        1  seed=1: out of memory" in shown and "missing       5  seed=5" in shown
    assert f"cflow resume {folder}" in shown and "cancel the others: scancel 7" in shown
    assert report([str(folder), "--format", "csv"]) == 0
    captured = capsys.readouterr()
    assert "cflow resume" in captured.err and "cflow resume" not in captured.out
    assert [line.split(",")[8] if "," in line else "" for line in captured.out.splitlines()[:1]] != []


def test_a_sweeper_that_chooses_as_it_goes_has_the_cells_that_were_begun(tmp_path, capsys):
    # Optuna's and others: which runs there will be is not known beforehand.
    ended = {"status": "failed", "reason": "disk full", "overrides": ["lr=0.123"], "finished": moment(5)}
    folder = a_sweep(tmp_path / "sweep", [{"status": "done"}, ended], ended=moment(1))
    content = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps(content | {"axes": {}, "jobs": None}))
    assert [(cell.status, cell.point) for cell in sweeps.cells(folder)] == [
        ("done", ""),
        ("failed", "lr=0.123"),
    ]
    assert main(["resume", str(folder)]) == 2
    assert f"cflow resume {folder}/NUMBER" in capsys.readouterr().err


def test_without_a_queue_a_launcher_is_asked_for_what_has_not_begun(tmp_path, monkeypatch):
    def standing(name, manifests, **launched):
        return [cell.status for cell in sweeps.cells(a_sweep(tmp_path / name, manifests, **launched))]

    monkeypatch.setattr(slurm, "queued", lambda asked: None)
    assert standing("alive", [None], launcher="joblib") == ["pending"]
    assert standing("gone", [None], launcher="joblib", pid=gone_pid()) == ["missing"]
    assert standing("over", [None], launcher="joblib", ended=moment(5)) == ["missing"]
    assert standing("far", [None], launcher="joblib", host="node1") == ["pending"]
    assert standing("far and quiet", [None], launcher="joblib", host="node1", started=moment(9e4)) == [
        "missing"
    ]
    assert standing("no_news", [running("node1", 5000)], launcher="joblib", host="node1") == ["no_news"]
    # A job of SLURM waits for days, and a queue that does not answer says nothing about it.
    assert standing("slurm", [None], job_ids={"0": "7"}, started=moment(9e4)) == ["pending"]


def test_the_queue_is_asked_once_and_understood(monkeypatch):
    asked = []

    def squeue(command, **_):
        asked.append(command)
        out = "12_0|RUNNING\n12_1|COMPLETED\n12_2|PENDING\n13|CANCELLED\n"
        return subprocess.CompletedProcess(
            command, code, out if code == 0 else "", "Invalid job id specified"
        )

    monkeypatch.setattr(slurm.shutil, "which", lambda name: name)
    monkeypatch.setattr(slurm.subprocess, "run", squeue)
    code = 0
    assert slurm.queued(["12_0", "12_1", "13"]) == {"12_0": "RUNNING", "12_2": "PENDING"}
    assert len(asked) == 1 and "--jobs=12,13" in asked[0]
    code = 1
    assert slurm.queued(["12_0"]) == {}
    assert slurm.cancel_command(["13", "12_0", "12_1"]) == "scancel 12 13"


def test_the_list(tmp_path, monkeypatch, capsys):
    here = running(socket.gethostname(), 10, pid=os.getpid(), choices={"optimizer": "gd"}, lr=0.1)
    a_sweep(tmp_path / "sweep", [None], launcher="joblib", ended=moment(1))
    failed = {"status": "failed", "reason": "no data", "choices": {"optimizer": "adam"}}
    for name, content in (("alone", here), ("failed", failed)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(content))
    first, third, second = listing.list_runs([tmp_path])
    assert (third.status, third.what, third.note, third.left_seconds) == ("failed", "adam", "no data", None)
    assert (first.status, first.what, second.status, second.what) == (
        "running",
        "gd lr=0.1",
        "missing",
        "seed=0",
    )
    # 6 of 9 steps are left at 10 s per step, 10 s of which are gone.
    assert first.left_seconds == pytest.approx(50, abs=3) and first.age_seconds == pytest.approx(9000, abs=3)
    monkeypatch.chdir(tmp_path)
    for form, words in (
        ("table", "3/9  33 %"),
        ("md", "| 2.5 h |"),
        ("csv", "alone,running,3,9,"),
        ("json", '"steps": 9,'),
        ("latex", "2.5 h"),
    ):
        assert main(["list", ".", "--format", form]) == 0
        assert words in capsys.readouterr().out
    assert main(["list", ".", "--status", "missing", "--format", "csv"]) == 0
    assert "alone" not in capsys.readouterr().out
    program = "import sys; from cflow_cli.cli import main; main(['list', '.']); assert not {'jax', 'pandas'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)


# --- going on --------------------------------------------------------------------------------------


def test_a_sweep_goes_on_only_as_it_began(tmp_path, monkeypatch, capsys):
    folder = a_sweep(tmp_path / "sweep", [{"status": "done", "finished": moment(5)}], ended=moment(1))
    assert main(["resume", str(folder)]) == 0
    assert "nothing to rerun" in capsys.readouterr().out
    assert main(["resume", str(folder), "lr=0.5"]) == 2
    assert "only its launcher can change" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["run", "-m", "seed=5,6", "hydra.sweep.dir=sweep"]) == 2
    assert "already holds another sweep" in capsys.readouterr().err


def manifest(folder):
    try:
        return json.loads((folder / "manifest.json").read_text())
    except FileNotFoundError:
        return {}


@pytest.mark.slow
def test_a_killed_worker_loses_a_sweep_of_joblib_and_resume_brings_it_back(tmp_path, monkeypatch, capsys):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    cflow = Path(sys.executable).with_name("cflow")
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    env.setdefault("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    sweep = tmp_path / "here"
    overrides = [*TINY, "seed=range(3)", "steps=2000", "checkpoint.every=50", "hydra.sweep.dir=here"]
    launching = subprocess.Popen(
        [cflow, "run", "-m", "launcher=joblib", "launcher.n_jobs=2", *overrides],
        env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE
    while not list(sweep.glob("0/checkpoints/*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(manifest(sweep / "0")["pid"], signal.SIGKILL)
    _, err = launching.communicate(timeout=PATIENCE)
    assert launching.returncode == 1 and "the launcher joblib failed" in err and "Traceback" not in err
    assert "cflow resume here" in err
    before = [cell.status for cell in sweeps.cells(sweep)]
    assert before[0] == "killed" and before[2] != "done"

    resume = [cflow, "resume", "here", "launcher=basic"]
    done = subprocess.run(resume, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "continuing from step" in done.stdout
    assert [cell.status for cell in sweeps.cells(sweep)] == ["done"] * 3
    for number in "012":
        assert pd.read_parquet(sweep / number / "metrics")["step"].tolist() == list(range(2000))
    # The same command in the same folder goes on too; here with nothing to do.
    monkeypatch.chdir(tmp_path)
    assert main(["run", "-m", *overrides]) == 0
    assert "nothing to rerun" in capsys.readouterr().out


# --- sharing GPUs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, ("2", "3")),
        ({"CUDA_VISIBLE_DEVICES": "GPU-4f,-1,1"}, ("GPU-4f",)),
        ({"CUDA_VISIBLE_DEVICES": ""}, ()),
    ],
)
def test_which_gpus_there_are(given, found):
    assert gpus.visible(given) == found


@pytest.mark.parametrize(
    ("place", "at_once", "given", "told"),
    [
        (1, 2, {}, {"CUDA_VISIBLE_DEVICES": "5", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"}),
        (2, 3, {}, {"CUDA_VISIBLE_DEVICES": "4", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45"}),
        (5, 6, {}, {"CUDA_VISIBLE_DEVICES": "5", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.3"}),
        (0, 4, {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}, {"CUDA_VISIBLE_DEVICES": "4"}),
    ],
)
def test_each_run_has_a_gpu_and_a_fair_part_of_its_memory(place, at_once, given, told):
    assert gpus.share(place, at_once, given, ["4", "5"]) == told
    assert gpus.share(place, at_once, given, []) == {}


@pytest.mark.skipif(importlib.util.find_spec("joblib") is None, reason="pip install 'cflow-cli[joblib]'")
def test_programs_of_joblib_see_a_gpu_each(monkeypatch, tmp_path):
    """With two GPUs that are only told of; what the runs' own programs have in their environment is what they keep."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    (tmp_path / "told.py").write_text(
        "import os, pathlib, time\n"
        "def data(folder):\n"
        "    told = [os.environ[name] for name in ('CUDA_VISIBLE_DEVICES', 'XLA_PYTHON_CLIENT_MEM_FRACTION')]\n"
        "    (pathlib.Path(folder) / f'{os.getpid()}.told').write_text(' '.join(told))\n"
        "    while len(list(pathlib.Path(folder).glob('*.told'))) < 2:\n"
        "        time.sleep(0.1)\n"  # no program takes both runs
        "    raise ValueError('that is all')\n"
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "told.yaml").write_text(f"_target_: told.data\nfolder: {tmp_path}\n")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("cflow")), "run", "--config-dir", str(tmp_path), "-m", "launcher=joblib", "data=told", "seed=0,1",
         f"hydra.sweep.dir={tmp_path / 'here'}"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}, cwd=tmp_path, capture_output=True, text=True,
        timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 1 and "that is all" in done.stdout, (done.stdout, done.stderr)
    told = sorted(path.read_text() for path in tmp_path.glob("*.told"))
    assert told == ["6 0.9", "7 0.9"]


@pytest.mark.skipif(not HAS_SUBMITIT, reason="pip install 'cflow-cli[slurm]'")
def test_local_programs_see_the_gpu_that_is_free(monkeypatch):
    from cflow_cli.runs.submitit import _Shares

    class Executor:
        shown = ()

        def update_parameters(self, gpus_per_node, local_visible_gpus):
            self.shown = local_visible_gpus

        def submit(self, job):
            job.told = (*self.shown, os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION"))
            return job

    class Job:
        ended = False

        def done(self):
            return self.ended

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    share, jobs = _Shares(Executor(), 2, None, True), [Job() for _ in range(3)]
    for job in jobs[:2]:
        share.submit(job)
    jobs[1].ended = True
    share.submit(jobs[2])
    assert [job.told for job in jobs] == [(0, "0.9"), (3, "0.9"), (3, "0.9")]
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ
    assert _Shares(Executor(), 2, None, False).submit(Job()).told == (0, 3, None)
    assert _Shares(Executor(), 2, 1, True).submit(Job()).told == (None,)
