"""Starting sweeps through Hydra's launchers, and continuing those that did not finish."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from cflow_cli import clock
from cflow_cli.config import composing, tree
from cflow_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, UserError, one_sentence, wants_traceback
from cflow_cli.runs import devices, receiving, slurm
from cflow_cli.runs.launching import Reporter, fresh_folder, make_folder, sweep_job
from cflow_cli.runs.sweeps import (
    SLURM_LAUNCHERS,
    UNFINISHED,
    Job,
    cells,
    count_statuses,
    is_sweep,
    read,
    resume_command,
    write,
)
from cflow_cli.storage import manifests


@dataclass(frozen=True)
class SweepResult:
    """How a launch of a sweep went: its folder, and 0, 1 where the launcher failed or 130 where it was interrupted."""

    folder: Path
    exit_code: int


def launch(overrides: Sequence[str], config_dir: Path | None, reporter: Reporter) -> SweepResult | None:
    """Run every cell of a sweep; what ``cflow run -m`` does.

    Parameters
    ----------
    overrides
        As on the command line.
    config_dir
        A folder of further configs.
    reporter
        What the report makes of each run.

    Returns
    -------
    SweepResult or None
        None where the very sweep was there and had nothing left to do.

    Raises
    ------
    UserError
        If the request cannot be carried out; nothing is written then.
    """
    overrides = composing.paths_as_text(overrides, multirun=True)
    with composing.hydra_session(config_dir) as hydra:
        return _launch(hydra, overrides, config_dir, reporter)


class Plan(NamedTuple):
    """What a sweep consists of.

    Parameters
    ----------
    cfg
        Hydra's config of the whole.
    axes
        What is swept: key to values.
    jobs
        The cells; None for a sweeper that chooses as it runs.
    devices
        The ``device`` of every cell, each once.
    """

    cfg: DictConfig
    axes: dict[str, list[str]]
    jobs: list[Job] | None
    devices: list[str]


def plan(hydra: Hydra, overrides: Sequence[str], config_dir: Path | None, reporter: Reporter) -> Plan:
    """Check a sweep and say what it consists of; nothing is written.

    Parameters
    ----------
    hydra
        Of a session.
    overrides, config_dir, reporter
        As of :func:`launch`.

    Raises
    ------
    UserError
        About the first cell that cannot be run.
    """
    cfg = composing.composed(hydra, overrides, config_dir, multirun=True)
    axes, points = _read_points(hydra, cfg)
    found = _check_points(hydra, points, config_dir, reporter)
    if not _is_basic(cfg):
        _check_sweeper(cfg)
        return Plan(cfg, {}, None, found)
    return Plan(cfg, axes, _number_jobs(hydra, cfg, points), found)


def _launch(
    hydra: Hydra, overrides: Sequence[str], config_dir: Path | None, reporter: Reporter
) -> SweepResult | None:
    cfg, axes, jobs, on = plan(hydra, overrides, config_dir, reporter)
    _check_launcher(cfg)
    folder = Path(cfg.hydra.sweep.dir)
    chosen = any(text.startswith("hydra.sweep.dir=") for text in overrides)
    given = None if config_dir is None else str(config_dir.resolve())
    if chosen and is_sweep(folder):
        there = read(folder)
        if jobs is not None and there.jobs == jobs:
            # What is there was asked for in the same words, or is to be checked as any other.
            same = (
                there.content.get("overrides") == list(overrides) and there.content.get("config_dir") == given
            )
            again = [text for text in overrides if _LAUNCHERS.match(text)]
            return resume(folder, again, reporter, config_dir, trust=same)
        raise UserError(
            f"{folder} already holds another sweep; choose another folder with hydra.sweep.dir=…, "
            f"or continue the sweep that is there: {resume_command(folder)}"
        )
    if chosen:
        make_folder(folder, again=True)
    else:
        folder = fresh_folder(folder)
    content = {
        "format": 1,
        "axes": axes,
        **manifests.environment(),
        "started": clock.now(),
        "config_dir": given,
        "overrides": list(overrides),
        "jobs": None if jobs is None else [vars(job) for job in jobs],
        "devices": on,
        "launches": [],
    }
    write(folder, content)
    if jobs is not None:
        print(describe(axes, jobs))
    print(f"folder {folder}", flush=True)
    return _launch_jobs(hydra, folder, jobs, overrides, reporter)


def describe(axes: Mapping[str, Sequence[str]], jobs: Sequence[Job]) -> str:
    """A sweep in one line: ``sweep of 4 runs: lr = 0.1, 0.2; seed = 0, 1``."""
    swept = "; ".join(f"{key} = {', '.join(values)}" for key, values in axes.items())
    return f"sweep of {len(jobs)} run{'s' * (len(jobs) != 1)}{': ' * bool(swept)}{swept}"


def resume(
    folder: Path,
    overrides: Sequence[str],
    reporter: Reporter,
    config_dir: Path | None = None,
    *,
    trust: bool = False,
) -> SweepResult | None:
    """What ``cflow resume SWEEP`` does: launch the cells that did not finish, the same way as before.

    Parameters
    ----------
    folder
        The sweep's folder.
    overrides
        Of the launcher only: ``launcher=slurm launcher.timeout_min=600``.
    reporter
        What the report makes of each run.
    config_dir
        The folder of configs that the sweep was started with: whoever gives it vouches for the modules it names.
    trust
        Whether whatever the sweep names may be built and run.

    Returns
    -------
    SweepResult or None
        None where there was nothing to continue.

    Raises
    ------
    UserError
        If there is nothing that can be resumed in this way, or it would run what nobody vouches for.
    """
    sweep = read(folder)
    if sweep.content["jobs"] is None:
        raise UserError(
            f"{folder} was made by a sweeper that chooses one point after the other; its runs are continued one "
            "by one: "
            f"{resume_command(folder)}"
        )
    for text in overrides:
        if not _LAUNCHERS.match(text):
            raise UserError(
                f"{text}: a sweep is continued as it began, only its launcher can change, as in launcher=slurm "
                "launcher.timeout_min=600; for other values start another sweep"
            )
    if not trust:
        receiving.check_sweep(sweep, config_dir)
    found = cells(folder)
    jobs = [cell.job for cell in found if cell.status in UNFINISHED and cell.job is not None]
    print(f"sweep {folder}: {count_statuses(found)}", flush=True)
    if not jobs:
        left = [cell for cell in found if cell.status != "done"]
        print("nothing to rerun" + ("; the others have not ended" if left else ""))
        return None
    print(f"continuing {len(jobs)}: {', '.join(str(job.number) for job in jobs)}", flush=True)
    before = list(sweep.content["overrides"])
    if any(re.match(r"(hydra/)?launcher=", text) for text in overrides):
        # Another launcher: the settings of the one before would not fit.
        before = [text for text in before if not _LAUNCHERS.match(text)]
    everything = [*before, *overrides]
    given = sweep.content.get("config_dir")
    config_dir = None if given is None else Path(given)
    folder = folder.resolve()
    # Relative paths (of data, say) are meant from where the sweep was started.
    directory = Path(sweep.content["working_directory"])
    here = contextlib.chdir(directory if directory.is_absolute() and directory.is_dir() else Path.cwd())
    with here, composing.hydra_session(config_dir) as hydra:
        _check_launcher(composing.composed(hydra, everything, config_dir, multirun=True))
        return _launch_jobs(hydra, folder, jobs, everything, reporter)


# Overrides that say where jobs run, not what they compute.
_LAUNCHERS = re.compile(r"[+~]*(hydra[./])?launcher[.=]|[+~]*hydra\.sweeper\.max_batch_size=")


def _check_launcher(cfg: DictConfig) -> None:
    slurms = str(cfg.hydra.runtime.choices.get("hydra/launcher")) in SLURM_LAUNCHERS
    if slurms and not slurm.available():
        raise UserError(
            "launcher=slurm: there is no sbatch here; start the sweep on a login node of a SLURM cluster, or "
            "run its jobs on this machine with launcher=submitit_local"
        )
    if cfg.distributed.coordinator is not None and not slurms:
        raise UserError(
            "distributed.coordinator is for one run, or for a sweep whose launcher starts several programs for each "
            "run: launcher=slurm_nodes"
        )


def _is_basic(cfg: DictConfig) -> bool:
    """Whether Hydra's own sweeper, which runs every combination, is chosen."""
    return str(cfg.hydra.sweeper["_target_"]).endswith(".BasicSweeper")


def _check_sweeper(cfg: DictConfig) -> None:
    """Check what a sweeper needs that chooses one point after the other."""
    sweeper = f"hydra/sweeper={cfg.hydra.runtime.choices.get('hydra/sweeper')}"
    if cfg.objective is None:
        raise UserError(
            f"{sweeper} needs a number to improve: objective=loss_error.central, or any other column of cflow report"
        )
    if OmegaConf.is_list(cfg.hydra.sweeper.get("direction")):
        raise UserError(f"{sweeper}: a run has one objective, so hydra.sweeper.direction must be one word")


def _read_points(hydra: Any, cfg: DictConfig) -> tuple[dict[str, list[str]], list[list[str]]]:
    """Axes of a sweep and the points on them.

    Of a sweeper that chooses as it runs, points on which every value and both ends of every interval are.
    """
    task = [text for text in cfg.hydra.overrides.task if not _LAUNCHERS.match(text)]
    task = [f"{key}={value}" for key, value in (cfg.hydra.sweeper.params or {}).items()] + task
    try:
        parsed = OverridesParser.create(config_loader=hydra.config_loader).parse_overrides(task)
        if _is_basic(cfg):
            (points,) = BasicSweeper.split_arguments(parsed, None)
        else:
            values = [_values_of(override) for override in parsed]
            longest = max(map(len, values), default=1)
            points = [[each[min(place, len(each) - 1)] for each in values] for place in range(longest)]
    except HydraException as error:
        raise UserError(" ".join(str(error).split())) from error
    swept = {override.get_key_element() for override in parsed if override.is_sweep_override()}
    axes = {key: list(dict.fromkeys(_value_of(point, key) for point in points)) for key in sorted(swept)}
    return axes, points


def _values_of(override: Override) -> list[str]:
    """What an override may become: every value of a choice or range, both ends of an interval."""
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        return [f"{key}={value.start}", f"{key}={value.end}"]
    if override.is_sweep_override():
        return [f"{key}={text}" for text in override.sweep_string_iterator()]
    return [str(override.input_line)]


def _number_jobs(hydra: Any, cfg: DictConfig, points: Sequence[Sequence[str]]) -> list[Job]:
    """The cells with their folders."""
    folders = [str(number) for number in range(len(points))]
    if OmegaConf.to_container(cfg.hydra.sweep, resolve=False)["subdir"] != "${hydra.job.num}":  # type: ignore[call-overload,index]
        for number, point in enumerate(points):
            job_cfg = hydra.config_loader.load_sweep_config(cfg, list(point))
            with open_dict(job_cfg):
                job_cfg.hydra.job.num = number
            HydraConfig.instance().set_config(job_cfg)
            folders[number] = str(job_cfg.hydra.sweep.subdir)
        if len(set(folders)) < len(folders):
            raise UserError("hydra.sweep.subdir gives several runs the same folder; leave it out")
    return [Job(number, tuple(point), folders[number]) for number, point in enumerate(points)]


def _check_points(
    hydra: Any, points: Sequence[Sequence[str]], config_dir: Path | None, reporter: Reporter
) -> list[str]:
    """Check every cell, for values may be right one by one and wrong together; the devices of all.

    Hydra composes, which is slow, once per choice of groups.
    """
    parser = OverridesParser.create()
    known_groups = tree.groups(config_dir)
    composed: dict[tuple[str, ...], DictConfig] = {}
    devices_: set[str] = set()
    for point in points:
        plain = [
            text
            for text in point
            if re.match(r"[\w.]+=", text) and text.partition("=")[0] not in known_groups
        ]
        choices = tuple(text for text in point if text not in plain)
        if choices not in composed:
            cfg = composed[choices] = composing.without_hydra(composing.composed(hydra, point, config_dir))
        else:
            cfg = composed[choices].copy()
            try:
                for override in parser.parse_overrides(plain):
                    OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True)
            except OmegaConfBaseException:
                composing.composed(hydra, point, config_dir)  # says it in a sentence
        reporter.check(cfg)
        devices_.add(str(cfg.device))
    return sorted(devices_)


def _value_of(point: Sequence[str], key: str) -> str:
    return next(text for text in point if text.startswith(f"{key}=")).partition("=")[2]


def _launch_jobs(
    hydra: Any, folder: Path, jobs: Sequence[Job] | None, overrides: Sequence[str], reporter: Reporter
) -> SweepResult:
    """Run cells through Hydra's launcher; how they ended is asked of the runs themselves."""
    master = [
        *composing.for_hydra(overrides),
        "hydra.mode=MULTIRUN",
        f"hydra.sweep.dir={composing.quote(str(folder))}",
    ]
    cfg = hydra.compose_config(
        config_name=tree.PRIMARY, overrides=master, run_mode=RunMode.MULTIRUN, with_log_configuration=True
    )
    entry = {
        "started": clock.now(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "launcher": str(cfg.hydra.runtime.choices.get("hydra/launcher")),
        "jobs": [] if jobs is None else [job.number for job in jobs],
        "job_ids": {},
        "cancel": None,
    }
    content = read(folder).content
    devices.hide_gpus(content.get("devices", []))
    write(folder, {**content, "launches": [*content["launches"], entry]})
    status, run_one = 0, partial(sweep_job, reporter=reporter)
    try:
        if jobs is None:
            hydra.multirun(config_name=tree.PRIMARY, task_function=run_one, overrides=master)
        else:
            selection = [text for text in overrides if text.startswith("launcher=")]
            _pass_to_launcher(hydra, cfg, run_one, jobs, selection)
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
        cancel = read(folder).launches[-1]["cancel"]
        rest = f"; the submitted jobs continue; to cancel them: {cancel}" if cancel else ""
        print(f"interrupted{rest}", file=sys.stderr)
    except UserError:
        raise
    except Exception as error:
        if wants_traceback():
            raise
        # A worker that was killed ends the sweep with some launchers; the runs say what became of them.
        status = EXIT_FAILED
        why = one_sentence(error).split(". ")[0]
        print(f"error: the launcher {_launcher_name(entry['launcher'])} failed: {why}", file=sys.stderr)
    finally:
        content = read(folder).content
        for launch_ in content["launches"]:
            if all(launch_[key] == entry[key] for key in ("started", "host", "pid")):
                launch_["ended"] = clock.now()
        write(folder, content)
    return SweepResult(folder, status)


def _launcher_name(launcher: Any) -> str:
    return str(launcher).removeprefix("cflow_")


def _pass_to_launcher(
    hydra: Any, cfg: DictConfig, run_one: Callable[[Any], Any], jobs: Sequence[Job], selection: Sequence[str]
) -> None:
    """What Hydra's basic sweeper does, for any subset of the cells, each in the folder that is its own."""
    callbacks = Callbacks(cfg)
    callbacks.on_multirun_start(config=cfg, config_name=tree.PRIMARY)
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=callbacks),
        task_function=run_one,
        config=cfg,
    )
    size = cfg.hydra.sweeper.max_batch_size or len(jobs)
    for first in range(0, len(jobs), size):
        batch = [
            [*job.overrides, *selection, f"hydra.sweep.subdir={composing.quote(job.folder)}"]
            for job in jobs[first : first + size]
        ]
        for returned in launcher.launch(batch, initial_job_idx=first):
            if returned.status == JobStatus.FAILED:
                _ = returned.return_value  # raises what the job raised
    callbacks.on_multirun_end(config=cfg, config_name=tree.PRIMARY)
