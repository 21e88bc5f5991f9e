"""Sweeps on a real SLURM: one node, started here, with the command as installed."""

import getpass
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
CFLOW = Path(sys.executable).with_name("cflow")
NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "srun")
MISSING = [
    name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None
]

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"no SLURM here ({', '.join(MISSING)}); see scripts/slurm.sh"),
    pytest.mark.skipif(
        importlib.util.find_spec("submitit") is None,
        reason="submitit is not installed: pip install -e '.[slurm]'",
    ),
    pytest.mark.skipif(getpass.getuser() != "root", reason="munge and slurmd want root"),
    pytest.mark.skipif(not CFLOW.exists(), reason="cflow is not installed beside this Python"),
]

# A run of seconds, so that most of its time is the start of Python and JAX.
TINY = ["data.n=50", "data.n_test=null", "model.widths=[8]", "processes=[discrete]"]
SLURM = ["-m", "launcher=slurm", "launcher.cpus_per_task=1", "launcher.array_parallelism=2"]
PATIENCE = 240


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    script = str(ROOT / "scripts" / "slurm.sh")
    env = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", "GRACE": "30"}
    # Compiled programs are shared by the jobs: the second starts sooner than the first.
    env.setdefault("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    subprocess.run([script, "start", str(folder), "2"], env=env, check=True)
    yield env | {"SLURM_CONF": str(folder / "slurm.conf"), "JAX_PLATFORMS": "cpu"}
    subprocess.run([script, "stop", str(folder)], env=env, check=True)


def cflow(*args, env, cwd):
    return subprocess.run(
        [str(CFLOW), *args], env=env, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE
    )


def launch(*args, env, cwd):
    return subprocess.Popen(
        [str(CFLOW), "run", *SLURM, *args],
        env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def manifest(folder):
    try:
        return json.loads((folder / "manifest.json").read_text())
    except FileNotFoundError:
        return {}


def statuses(folder, env):
    done = cflow("list", str(folder), "--format", "json", env=env, cwd=folder)
    return [row["status"] for row in json.loads(done.stdout)["rows"]]


def until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.2)


def test_a_sweep_is_a_job_array_and_a_failing_job_harms_no_other(cluster, tmp_path):
    done = cflow(
        "run", *SLURM, *TINY, "data.n=33,50", "steps=20", "hydra.sweep.dir=here", env=cluster, cwd=tmp_path
    )
    assert done.returncode == 1, done.stderr
    sweep = json.loads((tmp_path / "here" / "sweep.json").read_text())
    assert sweep["axes"] == {"data.n": ["33", "50"]}
    (launched,) = sweep["launches"]
    array = launched["job_ids"]["0"].removesuffix("_0")
    assert launched["job_ids"] == {"0": f"{array}_0", "1": f"{array}_1"}
    assert f"scancel {array}" in done.stdout and launched["cancel"] == f"scancel {array}"
    first, second = (manifest(tmp_path / "here" / number) for number in "01")
    assert first["status"] == "failed" and "data.n" in first["reason"]
    assert second["status"] == "done" and second["step"] == 20
    assert "launcher" not in second["command_line"]
    assert "failed        0  data.n=33: data.n must be" in done.stdout
    assert "cflow resume here" in done.stdout and "cflow resume here" in done.stderr


@pytest.mark.slow
def test_the_programs_of_a_run_find_each_other(cluster, tmp_path):
    done = cflow(
        "run", "-m", "launcher=slurm_nodes", "launcher.nodes=1", "launcher.tasks_per_node=2",
        "launcher.gpus_per_node=null", "launcher.cpus_per_task=1", *TINY, "measurements=[]", "device=cpu", "steps=8",
        "hydra.sweep.dir=here",
        env=cluster, cwd=tmp_path,
    )  # fmt: skip
    run = manifest(tmp_path / "here" / "0")
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert run["status"] == "done" and run["step"] == 8 and run["device"] == "2 devices (cpu) of 2 programs"
    leading, beside = sorted((tmp_path / "here" / ".submitit").glob("*/*_log.out"))
    assert "step 8/8" in leading.read_text() and "step" not in beside.read_text()


@pytest.mark.slow
def test_killed_and_cancelled_jobs_are_told_and_nothing_waits_for_them(cluster, tmp_path):
    sweep = tmp_path / "here"
    launching = launch(
        *TINY, "seed=range(3)", "steps=10000000", "hydra.sweep.dir=here", env=cluster, cwd=tmp_path
    )
    until(lambda: all(manifest(sweep / number).get("step", 0) > 0 for number in "01"))
    assert statuses(sweep, cluster) == ["running", "running", "pending"]
    again = cflow("resume", "here", env=cluster, cwd=tmp_path)
    assert again.returncode == 0 and "nothing to rerun" in again.stdout
    ids = json.loads((sweep / "sweep.json").read_text())["launches"][0]["job_ids"]

    # One is killed. Its place is taken by the third.
    subprocess.run(["scancel", "--signal=KILL", ids["0"]], env=cluster, check=True)
    until(lambda: manifest(sweep / "2").get("step", 0) > 0)
    assert statuses(sweep, cluster) == ["killed", "running", "running"]
    report = cflow("report", "here", env=cluster, cwd=tmp_path)
    assert "killed        0  seed=0" in report.stdout and "cflow resume here" in report.stdout

    # Ending the launching side leaves the others, and says how to cancel them (Ctrl-C is treated alike).
    launching.send_signal(signal.SIGTERM)
    out, err = launching.communicate(timeout=PATIENCE)
    assert launching.returncode == 130 and "Traceback" not in err
    command = json.loads((sweep / "sweep.json").read_text())["launches"][0]["cancel"]
    assert f"the submitted jobs continue; to cancel them: {command}" in err and "killed" in out
    assert statuses(sweep, cluster)[1:] == ["running", "running"]
    subprocess.run(command.split(), env=cluster, check=True)
    until(lambda: statuses(sweep, cluster) == ["killed"] * 3)


@pytest.mark.slow
def test_a_preempted_job_is_requeued_and_ends_like_an_undisturbed_one(cluster, tmp_path):
    # The two differ in their names only; a job that wants one of the two cores preempts one of them.
    sweep = tmp_path / "here"
    launching = launch(
        *TINY, "processes=[discrete,central]", "steps=4000", "name=a,b", "launcher.partition=low",
        "hydra.sweep.dir=here", env=cluster, cwd=tmp_path,
    )  # fmt: skip
    until(lambda: all(manifest(sweep / number).get("step", 0) > 0 for number in "01"))
    subprocess.run(["srun", "--partition=high", "--cpus-per-task=1", "sleep", "1"], env=cluster, check=True)
    _, err = launching.communicate(timeout=PATIENCE)
    assert launching.returncode == 0, err
    resumed = [manifest(sweep / number).get("resumed", []) for number in "01"]
    assert sorted(len(times) for times in resumed) == [0, 1]
    (time_,) = resumed[0] or resumed[1]
    assert time_["after"].startswith("interrupted: SIGUSR2") and 0 < time_["step"] < 4000
    for table in ("metrics", "eigenvalues"):
        first, second = (pd.read_parquet(sweep / number / table) for number in "01")
        pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert len(first) > 4000
