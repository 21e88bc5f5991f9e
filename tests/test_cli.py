import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toys import Simulated

from cflow_cli.cli import main
from cflow_cli.commands import completion
from cflow_cli.config import composing, tree
from cflow_cli.config.checking import check
from cflow_cli.runs import launching

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ["run", "report", "completion"]
SMALL = [
    "data.n=20",
    "data.n_test=10",
    "model.widths=[4]",
    "processes=[discrete]",
    "steps=6",
    "measurements.evaluation.every=2",
]


def cflow(*args, cwd, env=None):
    program = "import sys; from cflow_cli.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *args],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | (env or {}),
        capture_output=True,
        text=True,
    )


# --- help ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args", [["--help"], ["run", "--help"], ["report", "--help"], ["completion", "--help"]]
)
def test_help_needs_no_jax(args):
    program = f"""
import sys
from cflow_cli.cli import main
try:
    status = main({args})
except SystemExit as end:
    status = end.code
assert not status
assert "jax" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


def test_run_help_lists_every_choice(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# My own.\n_target_: mine.Model\n")
    assert main(["run", "--help", "--config-dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for group, choices in tree.groups(tmp_path).items():
        assert group in text and all(choice in text for choice in choices)
    assert "mine" in text and "gd*" in text and "lr=" in text


def test_the_config_is_shown(capsys):
    assert (
        main(["run", "--cfg", "job", "--package", "optimizer", "--resolve", "optimizer=adam", "lr=0.5"]) == 0
    )
    assert "learning_rate: 0.5" in capsys.readouterr().out


# --- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["runn"], "did you mean run?"),
        (["optimizer=adam"], "cflow run optimizer=adam"),
        (["run", "--multi"], "unrecognized"),
        (["run", "--resolve"], "--cfg"),
        (["run", "lr=-1"], "positive"),
        (["run", "optimizer=adamm"], "did you mean adam?"),
        (["run", "-m", "lr=0.1,-1"], "got -1"),
        (["run", "data.n=33"], "data.n"),
        (
            ["run", "data.n=20", "model.widths=[2]", "hydra.run.dir=/dev/null/run"],
            "choose another hydra.run.dir",
        ),
        (["run", "-m", "lr=1,2", "hydra.sweep.dir=/dev/null/sweep"], "cannot make the folder"),
        (["run", "optimizer._target_=optax.lion", "data.n=20", "model.widths=[2]"], "processes=[discrete]"),
        (["run", "data.n=100000"], "at most"),
        (["run", "device=cuda:7"], "device=cuda:7"),
        (["run", "model.activation=rellu"], "activation"),
        (["completion", "tcsh"], "bash"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(args, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1 and words in shown.err
    first_words = "starting: the config, then JAX\n" if args[0] == "run" else ""
    assert shown.out in ("", first_words) and list(tmp_path.iterdir()) == []


def test_a_traceback_on_request(monkeypatch):
    from cflow_cli.errors import UserError

    monkeypatch.setenv("CFLOW_TRACEBACK", "1")
    with pytest.raises(UserError):
        main(["run", "lr=-1"])


# --- completion ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cflow r", ["run ", "report "]),
        ("cflow run opt", ["optimizer=", "optimizer."]),
        ("cflow run optimizer=adam", ["optimizer=adam ", "optimizer=adam_uncorrected ", "optimizer=adamw "]),
        ("cflow run -m optimizer=gd,nad", ["optimizer=gd,nadam"]),
        ("cflow run processes=[discrete,c", ["processes=[discrete,central"]),
        ("cflow run optimizer=adam optimizer.b", ["optimizer.b1=", "optimizer.b2="]),
        ("cflow run optimizer.b", []),
        ("cflow run schedule=cosine schedule.al", ["schedule.alpha="]),
        ("cflow run dtype=", ["dtype=float32 ", "dtype=float64 "]),
        ("cflow run model.bias=", ["model.bias=true ", "model.bias=false "]),
        ("cflow run --m", ["--multirun "]),
        ("cflow run --config-dir ", []),
        ("cflow run experiment=rmsprop_paper lr=", ["lr=2e-05"]),
        ("cflow run experiment=rmsprop_paper optimizer.d", ["optimizer.decay="]),
        ("cflow run optimizer=adam lr=", ["lr=0.005"]),
        ("cflow report out", []),
        ("cflow report out --me", ["--metric "]),
        ("cflow report out --format j", ["json "]),
        ("cflow figures edge-of", ["edge-of-stability "]),
        ("cflow figures rank size=", ["size=mini ", "size=paper "]),
        ("cflow figures central-flows/r", ["central-flows/rmsprop "]),
        ("cflow figures --a", ["--all "]),
        ("cflow optimizers nad", ["nadam "]),
        ("cflow optimizers adam optimizer.b", ["optimizer.b1=", "optimizer.b2="]),
        ("cflow plot --f", ["--format "]),
        ("cflow non --f", []),
        ("cflow completion ", ["bash ", "zsh ", "fish "]),
    ],
)
def test_completion(line, expected):
    assert completion.complete(line, COMMANDS) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cflow run opt", "optimizer=|optimizer.|"),
        ("cflow run optimizer=ada", "adabelief |adafactor |adagrad |adam |adam_uncorrected |adamw |"),
        ("cflow run device=cu", "cuda |"),
        ("cflow run 'processes=[discrete,c", "processes=[discrete,central|"),
    ],
)
def test_completion_in_bash(line, expected, tmp_path):
    # What bash does at TAB: COMP_LINE and COMP_POINT are set, the function fills COMPREPLY, which replaces
    # whatever follows the last = of the word.
    program = tmp_path / "cflow"
    program.write_text(
        f"#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -c "
        "'import sys; from cflow_cli.cli import main; sys.exit(main())' \"$@\"\n"
    )
    program.chmod(0o755)
    script = f"""
eval "$(cflow completion bash)"
COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)}
_cflow
printf '%s|' "${{COMPREPLY[@]}}"
complete -p cflow >&2
"""
    done = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == expected
    assert "-F _cflow cflow" in done.stderr


# --- running ---------------------------------------------------------------------------------------


def test_a_run_from_end_to_end(tmp_path):
    run = ["run", *SMALL, "dtype=float64", "lr=0.05", "hydra.run.dir=here"]
    done = cflow(*run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "here" / "manifest.json").read_text())
    assert manifest["status"] == "done" and manifest["step"] == 6 and manifest["dtype"] == "float64"
    assert manifest["choices"]["optimizer"] == "gd" and "lr=0.05" in manifest["overrides"]
    assert "learning_rate: 0.05" in (tmp_path / "here" / "config.yaml").read_text()
    metrics = pd.read_parquet(tmp_path / "here" / "metrics")
    assert metrics["step"].tolist() == list(range(6)) and np.all(np.diff(metrics["loss"]) < 0)
    assert f"{manifest['num_parameters']} parameters" in done.stdout and "folder: here" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]

    before = (tmp_path / "here" / "manifest.json").read_bytes()
    again = cflow(*run, cwd=tmp_path)
    assert again.returncode == 0 and "here holds this run already, done" in again.stdout
    other = cflow(*run, "lr=0.06", cwd=tmp_path)
    assert other.returncode == 2 and "already holds a run with lr=0.05 instead of 0.06" in other.stderr
    assert (tmp_path / "here" / "manifest.json").read_bytes() == before

    onward = cflow("resume", "here", "steps=8", cwd=tmp_path)
    assert onward.returncode == 0 and "continuing from step 6" in onward.stdout, onward.stderr
    assert pd.read_parquet(tmp_path / "here" / "metrics")["step"].tolist() == list(range(8))


def test_a_sweep_goes_on_after_a_failed_run(tmp_path):
    done = cflow("run", "-m", *SMALL, "data.n=33,20", cwd=tmp_path)
    assert done.returncode == 1
    (sweep,) = tmp_path.glob("outputs/*/*_sweep")
    first, second = (json.loads((sweep / n / "manifest.json").read_text()) for n in "01")
    assert first["status"] == "failed" and "data.n" in first["reason"]
    assert second["status"] == "done" and second["command_line"].startswith("cflow run data.n=20 ")
    assert "Traceback" not in done.stderr + done.stdout


def test_default_folders_are_readable_and_never_shared(tmp_path):
    wanted = tmp_path / "outputs" / "12-00-00_gd"
    assert [launching.fresh_folder(wanted).name for _ in range(3)] == [
        "12-00-00_gd",
        "12-00-00_gd_2",
        "12-00-00_gd_3",
    ]


def execute(event, folder, steps=100):
    from cflow_cli.runs.run import Prepared, execute

    cfg = composing.compose([f"steps={steps}"])
    prepared = Prepared(cfg, check(cfg).settings, Simulated(event), "cpu", "data", {"optimizer": "gd"})
    result = execute(prepared, folder)
    return result, json.loads((folder / "manifest.json").read_text()), pd.read_parquet(folder / "metrics")


def test_ctrl_c_stops_after_the_chunk(tmp_path, capsys):
    handler = signal.getsignal(signal.SIGINT)
    result, manifest, metrics = execute(lambda: signal.raise_signal(signal.SIGINT), tmp_path / "run")
    assert result.exit_code == 130 and manifest["status"] == "interrupted" and "step 6" in manifest["reason"]
    assert metrics["step"].tolist() == list(range(6))
    assert signal.getsignal(signal.SIGINT) is handler
    out = capsys.readouterr().out
    assert "note: something happened" in out and "stopping after this chunk" in out


def test_sigterm_while_the_first_programs_compile_ends_the_run(tmp_path):
    """As installed. It does not wait for them, since there is nothing to save."""
    words = [Path(sys.executable).with_name("cflow"), "run", *SMALL, "hydra.run.dir=here"]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "empty")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=tmp_path, env=env, **pipes) as run:
        assert "folder here\n" in iter(run.stdout.readline, "")  # the loop is about to begin
        run.send_signal(signal.SIGTERM)
        _, err = run.communicate(timeout=120)
    manifest = json.loads((tmp_path / "here" / "manifest.json").read_text())
    assert run.returncode == 130 and manifest["status"] == "interrupted" and manifest["step"] == 0
    assert manifest["reason"] == "SIGTERM at step 0, before anything was computed"
    assert "continue with: cflow resume here" in err and "Traceback" not in err


def test_ctrl_c_twice_stops_at_once(tmp_path):
    def event():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    result, manifest, metrics = execute(event, tmp_path / "run")
    assert result.status == manifest["status"] == "interrupted"
    assert metrics["step"].tolist() == list(range(4))


def test_an_interrupt_in_the_last_chunk_changes_nothing(tmp_path):
    result, _, _ = execute(lambda: signal.raise_signal(signal.SIGINT), tmp_path / "run", steps=6)
    assert result.status == "done"


def test_an_error_leaves_a_failed_run_with_its_reason(tmp_path, monkeypatch):
    def event():
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes")

    result, manifest, metrics = execute(event, tmp_path / "run")
    assert result.exit_code == 1 and manifest["status"] == "failed"
    assert "out of memory; try data.microbatch" in manifest["reason"]
    assert metrics["step"].tolist() == list(range(4))
    assert "RESOURCE_EXHAUSTED" in (tmp_path / "run" / "traceback.txt").read_text()
    monkeypatch.setenv("CFLOW_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        execute(event, tmp_path / "other")
