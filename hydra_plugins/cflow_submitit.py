"""Hydra launchers through submitit: they say what they submitted, and do not wait for jobs that are gone.

Hydra's own waits for ever for a job that was killed where SLURM has no accounting, raises at the first job
that failed, starts all local jobs at once, and says no job ids. Hydra finds this module by its place in
``hydra_plugins``; without submitit (``pip install 'cflow[slurm]'``) it is empty.
"""

# No deferred annotations here: Hydra loads plugins without putting them among the modules, where dataclasses look.
import contextlib
import importlib.util
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

# How often a cluster is asked: at first often, later every minute, so that hundreds of waiting sweeps are no
# burden to it. A job must be absent several times over some seconds: result files come late through NFS.
_SHORTEST, _LONGEST, _ABSENCES = 2.0, 60.0, 3

if importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is not None:
    from hydra.core.config_store import ConfigStore
    from hydra.core.singleton import Singleton
    from hydra.core.utils import JobReturn, JobStatus
    from hydra_plugins.hydra_submitit_launcher import submitit_launcher as hydras
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf, LocalQueueConf, SlurmQueueConf

    @dataclass
    class SlurmConf(SlurmQueueConf):
        """Settings of ``launcher=slurm``; see conf/launcher/slurm.yaml."""

        _target_: str = "hydra_plugins.cflow_submitit.SlurmLauncher"
        wait: bool = True

    @dataclass
    class LocalConf(LocalQueueConf):
        """Settings of ``launcher=submitit_local``; see conf/launcher/submitit_local.yaml."""

        _target_: str = "hydra_plugins.cflow_submitit.LocalLauncher"
        array_parallelism: int = 256

    _OURS = ("wait", "array_parallelism")
    _SHARED = {field.name for field in fields(BaseQueueConf)}

    class SlurmLauncher(hydras.SlurmLauncher):
        """One job array of SLURM per sweep."""

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            """Submit the jobs, say their ids, and wait for them unless ``wait=false``."""
            from cflow_cli import slurm, sweeps

            wait = self.params["wait"]
            executor = _executor(self, {"array_parallelism"})
            arguments = _arguments(job_overrides, initial_job_idx)
            # A sweep of one job is a job of its own, without an array.
            jobs = executor.map_array(self, *zip(*arguments))
            ids = [job.job_id for job in jobs]
            folder = _folder(self)
            sweeps.submitted(folder, initial_job_idx, ids, slurms=True)
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
                return _collect(jobs, gone, ask, lambda: sweeps.counts(folder))

    class LocalLauncher(hydras.LocalLauncher):
        """Processes on this machine, ``array_parallelism`` at a time, each requeued when its time is up."""

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            """Start the jobs, some at a time, and wait for them."""
            from cflow_cli import sweeps

            most = self.params["array_parallelism"]
            executor = _executor(self, set())
            folder = _folder(self)
            _say(f"{len(job_overrides)} runs here, {most} at a time; what they say is in {folder}/.submitit")
            jobs: list[Any] = []
            for number, arguments in enumerate(_arguments(job_overrides, initial_job_idx)):
                while sum(not job.done() for job in jobs) >= most:
                    time.sleep(0.2)
                jobs.append(executor.submit(self, *arguments))
                sweeps.submitted(folder, initial_job_idx + number, [jobs[-1].job_id], slurms=False)
            return _collect(jobs, lambda job: job.done(), lambda waiting: None, lambda: sweeps.counts(folder))

    for name, node in (("cflow_slurm", SlurmConf), ("cflow_local", LocalConf)):
        ConfigStore.instance().store(group="hydra/launcher", name=name, node=node, provider="cflow")

    def _executor(launcher: Any, kept: set[str]) -> Any:
        """The executor of submitit with the launcher's settings, as Hydra's launchers make it."""
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

    def _arguments(job_overrides: Sequence[Sequence[str]], first: int) -> list[tuple[Any, ...]]:
        """Arguments of the launcher's ``__call__`` in each job's process."""
        state = Singleton.get_state()
        return [
            (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", state)
            for number, overrides in zip(itertools.count(first), job_overrides)
        ]

    def _folder(launcher: Any) -> Path:
        return Path(str(launcher.config.hydra.sweep.dir))

    def _collect(
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
                    results[place] = _result(job)
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
        """Let whoever ends the waiting side hear that the jobs go on, and how to cancel them."""
        signals = [signal.SIGTERM, signal.SIGHUP]
        if threading.current_thread() is not threading.main_thread():
            signals = []
        before = {number: signal.signal(number, signal.default_int_handler) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _result(job: Any) -> JobReturn:
        """What a job returned; nothing where it was killed or raised, which its log has."""
        returned = JobReturn(status=JobStatus.COMPLETED)
        if not job.paths.result_pickle.exists():
            _say(f"job {job.job_id} ended without a result; its log: {job.paths.stderr}")
            return returned
        outcome, result = job._get_outcome_and_result()
        if outcome != "success":
            _say(
                f"job {job.job_id} failed: {str(result).strip().splitlines()[-1]}; its log: {job.paths.stderr}"
            )
            return returned
        return result

    def _say(text: str) -> None:
        print(text, flush=True)
