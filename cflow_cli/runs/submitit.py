"""Launchers of sweeps through submitit: they say what they submitted, and do not wait for jobs that are gone.

Hydra's own waits forever for a job that was killed where SLURM has no accounting, raises at the first job
that failed, starts all local jobs at once, and says no job ids. ``hydra_plugins/cflow_submitit.py`` shows them to
Hydra.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher import submitit_launcher as hydra_launchers
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

from cflow_cli.runs import gpus, slurm, sweeps

# How often a cluster is asked: at first often, later every minute, so that hundreds of waiting sweeps are no
# burden to it. A job must be absent several times over some seconds: result files come late through NFS.
_SHORTEST, _LONGEST, _ABSENCES = 2.0, 60.0, 3

_OURS = ("wait", "array_parallelism")
_SHARED = {field.name for field in fields(BaseQueueConf)}


class SlurmLauncher(hydra_launchers.SlurmLauncher):
    """One job array of SLURM per sweep."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit the jobs, say their ids, and wait for them unless ``wait=false``."""
        wait = self.params["wait"]
        executor = _make_executor(self, {"array_parallelism"})
        arguments = _job_arguments(job_overrides, initial_job_idx)
        # A sweep of one job is a job of its own, without an array.
        jobs = executor.map_array(self, *zip(*arguments))
        ids = [job.job_id for job in jobs]
        folder = _sweep_folder(self)
        sweeps.note_job_ids(folder, initial_job_idx, ids, slurms=True)
        shown = ids[0] if len(ids) == 1 else f"{ids[0]} to {ids[-1]}"
        _say(f"submitted {len(ids)} job{'s' * (len(ids) > 1)} to SLURM: {shown}")
        _say(f"cancel: {slurm.cancel_command(ids)}; how they do: cflow list {folder}")
        if not wait:
            return [JobReturn(overrides=list(o), status=JobStatus.COMPLETED) for o in job_overrides]

        absences = dict.fromkeys(ids, 0)

        def gone(job: Any) -> bool:
            return absences[job.job_id] >= _ABSENCES

        def ask(waiting: Sequence[Any]) -> None:
            found = slurm.queued([job.job_id for job in waiting])
            for job in waiting:
                if found is not None:
                    absences[job.job_id] = 0 if job.job_id in found else absences[job.job_id] + 1

        with _ended_like_ctrl_c():
            return _wait_for_results(jobs, gone, ask, lambda: sweeps.count_statuses(sweeps.cells(folder)))


class LocalLauncher(hydra_launchers.LocalLauncher):
    """Processes on this machine, ``array_parallelism`` at a time, each requeued when its time is up."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Start the jobs, some at a time, and wait for them."""
        most = self.params["array_parallelism"]
        executor = _make_executor(self, set())
        share = _Shares(executor, most, self.params["gpus_per_node"], _are_alike(self, job_overrides))
        folder = _sweep_folder(self)
        _say(f"{len(job_overrides)} runs here, {most} at a time; what they say is in {folder}/.submitit")
        jobs: list[Any] = []
        for number, arguments in enumerate(_job_arguments(job_overrides, initial_job_idx)):
            while sum(not job.done() for job in jobs) >= most:
                time.sleep(0.2)
            jobs.append(share.submit(self, *arguments))
            sweeps.note_job_ids(folder, initial_job_idx + number, [jobs[-1].job_id], slurms=False)
        return _wait_for_results(
            jobs,
            lambda job: job.done(),
            lambda waiting: None,
            lambda: sweeps.count_statuses(sweeps.cells(folder)),
        )


class _Shares:
    """Submits runs to this machine, each to see a GPU of its own, or to have a part of one.

    Parameters
    ----------
    executor
        Of submitit.
    at_once
        Runs at a time.
    wanted
        GPUs of each run: None for its share; with a number the first ones are shown to every run, as submitit does.
    alike
        Whether it is all the same to each of them which GPU is its own; else each sees all.
    """

    def __init__(self, executor: Any, at_once: int, wanted: int | None, alike: bool) -> None:
        # Submitit knows them by their numbers only.
        numbered = [name for name in gpus.visible(os.environ) if name.isdecimal()] if wanted is None else []
        self._gpus = numbered if alike else []
        if numbered and not alike:
            executor.update_parameters(
                gpus_per_node=len(numbered), local_visible_gpus=tuple(map(int, numbered))
            )
        self._executor, self._at_once = executor, at_once
        self._jobs: dict[int, Any] = {}

    def submit(self, *arguments: Any) -> Any:
        """Start a run in the first place that no other has; its job."""
        place = next(p for p in itertools.count() if p not in self._jobs or self._jobs[p].done())
        told = gpus.share(place, self._at_once, os.environ, self._gpus)
        if told:
            self._executor.update_parameters(
                gpus_per_node=1, local_visible_gpus=(int(told.pop(gpus.VISIBLE)),)
            )
        with _environment(told):
            self._jobs[place] = self._executor.submit(*arguments)
        return self._jobs[place]


def _are_alike(launcher: Any, job_overrides: Sequence[Sequence[str]]) -> bool:
    cfg, words = launcher.config, {text for overrides in job_overrides for text in overrides}
    named = {text.partition("=")[2] for text in words if text.startswith("device=")}
    several = any(text.startswith("devices=") for text in words)
    return not several and all(gpus.may_share(device, cfg.devices) for device in {str(cfg.device), *named})


@contextlib.contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    """With these in the environment, which programs that are started have, too."""
    os.environ.update(more)
    try:
        yield
    finally:
        for name in more:
            del os.environ[name]


def _make_executor(launcher: Any, kept: set[str]) -> Any:
    """The executor of submitit with the launcher's settings, as Hydra's launchers make it."""
    # Submitit sets up logging when it is loaded, and Hydra loads every plugin in every command.
    import submitit

    kind = launcher._EXECUTOR
    params = {key: value for key, value in launcher.params.items() if key not in set(_OURS) - kept}
    folder, timeouts = params.pop("submitit_folder"), params.pop("max_num_timeout", None)
    more = {} if timeouts is None else {f"{kind}_max_num_timeout": timeouts}
    executor = submitit.AutoExecutor(folder=folder, cluster=kind, **more)
    executor.update_parameters(
        **{key if key in _SHARED else f"{kind}_{key}": value for key, value in params.items()}
    )
    return executor


def _job_arguments(job_overrides: Sequence[Sequence[str]], first: int) -> list[tuple[Any, ...]]:
    """Arguments of the launcher's ``__call__`` in each job's process."""
    state = Singleton.get_state()
    return [
        (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", state)
        for number, overrides in zip(itertools.count(first), job_overrides)
    ]


def _sweep_folder(launcher: Any) -> Path:
    return Path(str(launcher.config.hydra.sweep.dir))


def _wait_for_results(
    jobs: Sequence[Any],
    gone: Callable[[Any], bool],
    ask: Callable[[Sequence[Any]], None],
    counts: Callable[[], str],
) -> list[JobReturn]:
    """Wait until every job has left its result or is gone; what came of it stands in its run's manifest."""
    results: dict[int, JobReturn] = {}
    began = asked = time.monotonic()
    said = ""
    while len(results) < len(jobs):
        for place, job in enumerate(jobs):
            # Gone first: a job may leave its result and go in between.
            was_gone = place not in results and gone(job)
            if place not in results and (job.paths.result_pickle.exists() or was_gone):
                results[place] = _read_result(job)
        now = time.monotonic()
        if now - asked >= min(max((now - began) / 10, _SHORTEST), _LONGEST):
            asked = now
            ask([job for place, job in enumerate(jobs) if place not in results])
            if (text := counts()) != said:
                said = text
                _say(said)
        if len(results) < len(jobs):
            time.sleep(0.5)
    return [results[place] for place in range(len(jobs))]


@contextlib.contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Let whoever ends the waiting side hear that the jobs continue, and how to cancel them."""
    signals = [signal.SIGTERM, signal.SIGHUP]
    if threading.current_thread() is not threading.main_thread():
        signals = []
    before = {number: signal.signal(number, signal.default_int_handler) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _read_result(job: Any) -> JobReturn:
    """What a job returned; nothing where it was killed or raised, which its log has."""
    returned = JobReturn(status=JobStatus.COMPLETED)
    if not job.paths.result_pickle.exists():
        _say(f"job {job.job_id} ended without a result; its log: {job.paths.stderr}")
        return returned
    outcome, result = job._get_outcome_and_result()
    if outcome != "success":
        _say(f"job {job.job_id} failed: {str(result).strip().splitlines()[-1]}; its log: {job.paths.stderr}")
        return returned
    return result


def _say(text: str) -> None:
    print(text, flush=True)
