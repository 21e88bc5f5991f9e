"""Starting one run through Hydra: a new one, one that is continued, one of a sweep, one that a figure needs."""

from __future__ import annotations

import contextlib
import logging.config
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from cflow_cli import together
from cflow_cli.config import composing, tree
from cflow_cli.config.checking import check
from cflow_cli.config.settings import CHANGEABLE
from cflow_cli.errors import EXIT_FAILED, LOST, UserError, one_sentence, wants_traceback
from cflow_cli.runs import devices, gpus, receiving, resuming, sweeps
from cflow_cli.runs.jobs import execute, prepare
from cflow_cli.runs.run import Prepared, RunResult, choices_of, describe_command
from cflow_cli.runs.tracking import Describe
from cflow_cli.storage import RunWriter, files, read_run

if TYPE_CHECKING:
    from cflow_cli.runs.kernel import KernelJob


@dataclass(frozen=True)
class Reporter:
    """What the report makes of a run, of which this room knows nothing: functions of modules, which reach workers.

    Parameters
    ----------
    column
        (objective, processes, measurements) -> name of a column; UserError if these have none of that name.
    value
        (folder, column) -> its value; None for a run that failed, diverged or has none.
    describe
        Makes what the loggers are given at the end; see :func:`cflow_cli.runs.run.execute`.
    """

    column: Callable[[str, Sequence[Any], Sequence[Any]], str]
    value: Callable[[Path, str], float | None]
    describe: Describe

    def check(self, cfg: DictConfig) -> None:
        """Check a config, and that there is a column for its objective.

        Raises
        ------
        UserError
            If there is none.
        """
        checked = check(cfg)
        if checked.settings.objective is not None:
            self.column(checked.settings.objective, checked.processes, checked.measurements)

    def objective(self, cfg: DictConfig, folder: Path) -> float | None:
        """The objective of a run that has ended; None where it has no value."""
        checked = check(cfg)
        column = self.column(str(checked.settings.objective), checked.processes, checked.measurements)
        return self.value(folder, column)


def launch(overrides: Sequence[str], config_dir: Path | None, reporter: Reporter) -> RunResult:
    """Compose one run and run it; what ``cflow run`` does.

    Parameters
    ----------
    overrides
        As on the command line.
    config_dir
        A folder of further configs.
    reporter
        What the report makes of the run.

    Raises
    ------
    UserError
        If the request cannot be carried out; nothing is written then.
    """
    overrides = composing.paths_as_text(overrides)
    with composing.hydra_session(config_dir) as hydra:
        cfg = composing.composed(hydra, overrides, config_dir)
        if any(text.startswith("launcher") for text in overrides):
            raise UserError("launcher= is for sweeps, which may be of one run: cflow run -m launcher=…")
        if cfg.hydra.mode == RunMode.MULTIRUN:
            raise UserError(
                "the preset is for a sweep (hydra.mode=MULTIRUN): cflow run -m " + " ".join(overrides)
            )
        asked = composing.without_hydra(cfg)
        reporter.check(asked)
        _join(asked)
        HydraConfig.instance().set_config(cfg)
        folder = Path(cfg.hydra.run.dir)
        chosen = any(text.startswith("hydra.run.dir=") for text in overrides)
        if chosen and together.decide(lambda: resuming.is_done(folder, asked)):
            print(f"{folder} holds this run already, done")
            return RunResult(folder, "done")
        prepared = prepare(asked, folder=folder if chosen else None)
        folder = together.decide(lambda: _own_folder(folder, chosen=chosen))
        if not together.leads():
            return execute(prepared, folder)

        def job(_: DictConfig) -> RunResult | UserError:
            try:
                return execute(prepared, folder, describe=reporter.describe)
            except UserError as error:
                return error  # Hydra would log it, before it is told in its own sentence

        result: RunResult | UserError = hydra.run(
            config_name=tree.PRIMARY,
            task_function=job,
            overrides=[*overrides, f"hydra.run.dir={composing.quote(str(folder))}"],
        ).return_value
    if isinstance(result, UserError):
        raise result
    return result


def _join(cfg: DictConfig) -> None:
    settings = check(cfg).settings
    if "kernel" in cfg and settings.distributed.coordinator is not None:
        raise UserError("a kernel is computed by one program: leave out distributed.coordinator")
    devices.join(settings)


def _own_folder(folder: Path, *, chosen: bool) -> Path:
    """Make the folder of a new run, or use the one that was asked for."""
    if chosen:
        make_folder(folder, again=True)
    else:
        folder = fresh_folder(folder)
    with files.lock(folder):
        return folder  # one that cannot be used is told before Hydra begins a log there


def resume(
    folder: Path,
    overrides: Sequence[str] = (),
    describe: Describe | None = None,
    config_dir: Path | None = None,
    *,
    trust: bool = False,
) -> RunResult | None:
    """Continue a run; what ``cflow resume RUN`` does.

    Parameters
    ----------
    folder
        A run folder.
    overrides
        ``key=value`` of :data:`cflow_cli.config.settings.CHANGEABLE` keys.
    describe
        See :func:`cflow_cli.runs.run.execute`.
    config_dir
        A folder of configs of the user's own: the modules that they name are trusted.
    trust
        Whether whatever the run's config names may be built, also what is neither of this package nor of optax.

    Returns
    -------
    RunResult or None
        How it ended; None where it had ended before.

    Raises
    ------
    UserError
        If the folder holds no run, an override would make it another one, or its config names what nobody trusts.
    """
    _join_again(overrides)
    found = together.decide(lambda: _unfinished(folder, overrides, config_dir, trust=trust))
    if found is None:
        return None
    cfg, choices = found
    prepared = prepare(cfg, choices=choices, folder=folder)
    if together.leads():
        _append_to_log(folder)
    return execute(prepared, folder, describe=describe)


def _join_again(overrides: Sequence[str]) -> None:
    """Meet the other programs that are to continue a run; before anything is read that one of them may have to mend."""
    own = [text for text in overrides if text.startswith(("distributed.", "device="))]
    if any(text.startswith("distributed.") for text in own):
        _join(composing.compose(own))


def _unfinished(
    folder: Path, overrides: Sequence[str], config_dir: Path | None, *, trust: bool
) -> tuple[DictConfig, dict[str, str] | None] | None:
    """Config of a run that is to be continued, and its choices; None where it has ended, which is said."""
    for note in resuming.mend(folder):
        print(f"note: {note}", flush=True)
    run = read_run(folder)
    if not run.config:
        raise UserError(
            f"{folder} has no config.yaml, so it cannot be continued; start it again with cflow run"
        )
    for text in overrides:
        key = text.partition("=")[0]
        if not re.fullmatch(r"[\w.]+=.+", text) or not resuming.is_changeable(key):
            raise UserError(
                f"{text} cannot change in a run that is continued; {', '.join(CHANGEABLE)} can. "
                "For another run from the same point: cflow run init.from=" + str(folder)
            )
    if not trust:
        receiving.check_run(folder, run.config, config_dir)
    try:
        cfg = OmegaConf.create(run.config)
        cfg.merge_with_dotlist(list(overrides))
    except Exception as error:
        raise UserError(
            f"cannot read {folder / 'config.yaml'} {' '.join(overrides)}: {' '.join(str(error).split())}"
        ) from error
    check(cfg)
    step = run.manifest.get("step") or 0
    if "kernel" not in cfg and cfg.steps < step:
        raise UserError(f"steps={cfg.steps}: the run is at step {step} already")
    if resuming.is_done(folder, cfg):
        more = f", at step {step}; to continue it, give more steps, such as steps={2 * step}"
        print(f"{folder} is done{'' if 'kernel' in cfg else more}")
        return None
    return cfg, run.manifest.get("choices")


def _append_to_log(folder: Path) -> None:
    """Add to the run's log, as Hydra does where it starts a run."""
    path = tree.conf_dir() / "hydra" / "job_logging" / "cflow.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["handlers"]["file"]["filename"] = str(folder / "run.log")
    logging.config.dictConfig(settings)


def run_into(
    composed: DictConfig, folder: Path, announce: Callable[[Path], None], describe: Describe | None = None
) -> RunResult:
    """Run a composed config into a folder, unless it is there already; what ``cflow figures`` does with each run.

    Parameters
    ----------
    composed
        With Hydra's own node, from :func:`cflow_cli.config.composing.composed`.
    folder
        The run folder.
    announce
        Called with the folder before the run starts.
    describe
        See :func:`cflow_cli.runs.run.execute`.

    Raises
    ------
    UserError
        If the run cannot be prepared; nothing is written then.
    """
    HydraConfig.instance().set_config(composed)
    cfg = composing.without_hydra(composed)
    if resuming.is_done(folder, cfg):
        return RunResult(folder, "done")
    prepared = prepare(cfg, folder=folder)
    make_folder(folder, again=True)
    announce(folder)
    return execute(prepared, folder, describe=describe)


def sweep_job(cfg: DictConfig, reporter: Reporter) -> RunResult | float:
    """One run of a sweep; what Hydra's launchers call, in this process or another.

    A failure is a status in the run's manifest and not an exception, so that the other runs continue and every
    launcher treats it alike. An interrupt ends the whole sweep where it runs in one process.

    Returns
    -------
    RunResult or float
        The number that is the run's objective, where it has one. A run without a value, because it failed or diverged,
        say, has the worst: infinity, or minus infinity where the sweeper's direction is to maximise.
    """
    composing.register_resolvers()
    result = _run_cell(cfg, reporter.describe)
    if cfg.objective is None or not together.leads():
        return result
    value = reporter.objective(cfg, result.folder) if result.status == "done" else None
    print(f"{cfg.objective}: " + ("no value" if value is None else f"{value:.6g}"), flush=True)
    if value is not None:
        return value
    direction = HydraConfig.get().sweeper.get("direction")
    return float("-inf" if "maximize" in str(direction) else "inf")


def _run_cell(cfg: DictConfig, describe: Describe) -> RunResult:
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        composing.scale_rate(cfg)
        _share_gpus(cfg)
        _join(cfg)
        if together.decide(lambda: resuming.is_done(folder, cfg)):
            return RunResult(folder, "done")
        _say_which()
        prepared = prepare(cfg, folder=folder)
        _share_programs(prepared)
        result = execute(prepared, folder, describe=describe)
    except Exception as error:
        if wants_traceback():
            raise
        if together.leads() and not (folder / "manifest.json").exists():
            writer = RunWriter(folder)
            writer.start(
                describe_command() | {"choices": choices_of(cfg)}, OmegaConf.to_yaml(cfg, resolve=True)
            )
            if not isinstance(error, UserError):
                (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
            writer.finish("failed", reason=one_sentence(error))
        result = RunResult(folder, "failed", one_sentence(error))
    if result.status == "failed" and together.leads():
        print(f"error: {result.reason}", file=sys.stderr, flush=True)
    if result.reason == LOST:
        together.leave(EXIT_FAILED)
    if result.status == "interrupted":
        raise KeyboardInterrupt
    return result


def _share_gpus(cfg: DictConfig) -> None:
    """Where joblib computes several runs at a time, each of its programs has a GPU of its own, or a part of one."""
    hydra = HydraConfig.get()
    if str(hydra.runtime.choices.get("hydra/launcher")) != "joblib":
        return
    if gpus.may_share(str(cfg.device), cfg.devices):
        at_once = hydra.launcher.n_jobs
        at_once = at_once if at_once > 0 else max((os.cpu_count() or 1) + 1 + at_once, 1)
        gpus.take_share(Path(hydra.sweep.dir), at_once)


def _share_programs(prepared: Prepared | KernelJob) -> None:
    """Free the programs of the runs before, which a sweep may have hundreds of, unless this one steps them, too."""
    from cflow_cli.engine import caches

    caches.keep_shared(prepared.simulation.form if isinstance(prepared, Prepared) else object())


def _say_which() -> None:
    """Say which run of the sweep begins here, where the sweep's folder tells."""
    hydra = HydraConfig.get()
    with contextlib.suppress(UserError):
        sweep = sweeps.read(Path(hydra.sweep.dir))
        trials = hydra.sweeper.get("n_trials")
        print(sweeps.headline(sweep, str(hydra.sweep.subdir), hydra.overrides.task, trials), flush=True)


def fresh_folder(folder: Path) -> Path:
    """Make the folder, or the same with _2, _3, … appended if it exists, so that no other run can take it."""
    candidate, number = folder, 1
    while not make_folder(candidate, again=False):
        number += 1
        candidate = folder.with_name(f"{folder.name}_{number}")
    return candidate


def make_folder(folder: Path, *, again: bool) -> bool:
    """Make a folder; False if it exists and may not be used ``again``, UserError if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=again)
    except FileExistsError:
        if again:
            raise UserError(
                f"{folder} is a file; choose another hydra.run.dir (or hydra.sweep.dir)"
            ) from None
        return False
    except OSError as error:
        raise UserError(
            f"cannot make the folder {folder}: {error.strerror}; "
            "choose another hydra.run.dir (or hydra.sweep.dir)"
        ) from error
    return True
