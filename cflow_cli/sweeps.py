"""Sweeps: which runs one consists of, how each of them stands, and how those that did not finish go on.

A sweep folder has a ``sweep.json``, written before the first job starts: what was swept, the command, and the
number, overrides and folder of each job. So a job that was killed before it wrote anything is known to be
missing. Nothing here imports JAX, and Hydra only where something is launched.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import clock, slurm
from . import config as configs
from .commandline import EXIT_FAILED, EXIT_INTERRUPTED
from .errors import UserError, wants_traceback
from .storage import manifest as manifests
from .storage.files import write_text

if TYPE_CHECKING:
    from omegaconf import DictConfig

NAME = "sweep.json"

# A run writes at least every hundredth of its age; a first chunk may compile for minutes.
_SILENT_SECONDS = 900.0
_SILENT_PART = 0.05

STATUSES = ("done", "running", "pending", "silent", "interrupted", "failed", "killed", "missing")
UNFINISHED = ("interrupted", "failed", "killed", "missing")

# A launching process on a machine that cannot be asked counts as gone when its sweep was quiet for so long.
_QUIET_SECONDS = 3600.0
_SLURM = ("cflow_slurm", "submitit_slurm")
_SHOWN = 12


@dataclass(frozen=True)
class Job:
    """One cell of a sweep.

    Parameters
    ----------
    number
        Counted from 0, in the order of the sweep.
    overrides
        All of them, the swept and the others.
    folder
        The run's folder, within the sweep's.
    """

    number: int
    overrides: tuple[str, ...]
    folder: str


@dataclass(frozen=True)
class Sweep:
    """A sweep as its ``sweep.json`` tells it.

    Parameters
    ----------
    folder
        Its folder.
    content
        What the file says.
    """

    folder: Path
    content: dict[str, Any]

    @property
    def axes(self) -> dict[str, list[str]]:
        """What was swept: key to values."""
        return self.content["axes"]

    @property
    def launches(self) -> list[dict[str, Any]]:
        """When, where and how its jobs were started, oldest first."""
        return self.content["launches"]

    @property
    def jobs(self) -> list[Job]:
        """Its cells; for a sweeper that chooses them as it goes, those that were begun."""
        if self.content["jobs"] is None:
            begun = (path.parent.name for path in self.folder.glob(f"*/{manifests.NAME}"))
            numbers = sorted(int(name) for name in begun if name.isdigit())
            return [Job(number, (), str(number)) for number in numbers]
        return [Job(job["number"], tuple(job["overrides"]), job["folder"]) for job in self.content["jobs"]]

    def point(self, job: Job) -> str:
        """The swept values of a job: ``lr=0.1 seed=2``."""
        return " ".join(text for text in job.overrides if text.partition("=")[0] in self.axes)


@dataclass(frozen=True)
class Cell:
    """How one cell of a sweep, or a run by itself, stands.

    Parameters
    ----------
    folder
        The run's folder; does not exist while the run has not begun.
    status
        One of :data:`STATUSES`.
    note
        Why, where that is to be said.
    manifest
        What the run wrote; empty while it has not begun.
    job
        The cell of a sweep that this is.
    point
        The swept values.
    """

    folder: Path
    status: str
    note: str = ""
    manifest: dict[str, Any] = field(default_factory=dict)
    job: Job | None = None
    point: str = ""


# --- reading --------------------------------------------------------------------------------------


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (folder / NAME).is_file()


def walk(path: Path) -> Iterator[tuple[Path, bool]]:
    """Folders of sweeps, and of runs outside of sweeps, at or below a path; with whether it is a sweep's."""
    for name, inside, files in os.walk(path):
        folder = Path(name)
        if NAME in files or manifests.NAME in files:
            yield folder, NAME in files
            inside.clear()
        inside[:] = sorted(name for name in inside if name[0] != ".")


def find(paths: Iterable[Path]) -> list[Path]:
    """Sweep folders at or below some paths, each once."""
    return list(dict.fromkeys(folder for path in paths for folder, is_sweep in walk(path) if is_sweep))


def read(folder: Path) -> Sweep:
    """Read a sweep.

    Raises
    ------
    UserError
        When the folder is not that of a sweep.
    """
    path = folder / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Sweep(folder, {**content, "axes": content["axes"], "launches": content["launches"]})
    except FileNotFoundError:
        raise UserError(f"{folder} is not a sweep: it has no {NAME}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def cells(folder: Path) -> list[Cell]:
    """How each cell of a sweep stands: by what its run wrote, and where that says nothing, by its launcher.

    Parameters
    ----------
    folder
        The sweep's folder.

    Raises
    ------
    UserError
        When the folder is not that of a sweep.
    """
    sweep = read(folder)
    launches = {number: launch for launch in sweep.launches for number in launch["jobs"]}
    manifest_of = {job.number: _manifest(folder / job.folder) for job in sweep.jobs}
    # The queue is asked only if somebody may be in it.
    asked = [
        launch["job_ids"][str(number)]
        for number, launch in launches.items()
        if launch["launcher"] in _SLURM
        and str(number) in launch["job_ids"]
        and (manifest_of.get(number) or {}).get("status") != "done"
    ]
    queued = slurm.queued(asked)
    quiet = _quiet_seconds([*launches.values(), *filter(None, manifest_of.values())])
    found = []
    for job in sweep.jobs:
        launch = launches.get(job.number)
        waits = False if launch is None else _waits(launch, job.number, queued, quiet)
        status, note = _standing(manifest_of[job.number], waits, launch)
        manifest = manifest_of[job.number] or {}
        point = sweep.point(job) if job.overrides else " ".join(manifest.get("overrides") or [])
        found.append(Cell(folder / job.folder, status, note, manifest, job, point))
    return found


def run_cell(folder: Path) -> Cell:
    """How a run that is no part of a sweep stands."""
    manifest = _manifest(folder)
    return Cell(folder, *_standing(manifest, None, None), manifest or {})


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        return manifests.read(folder)
    except UserError as error:
        if (folder / manifests.NAME).exists():
            return {"status": "unreadable", "reason": str(error)}
        return None


def _standing(
    manifest: dict[str, Any] | None, waits: bool | None, launch: dict[str, Any] | None
) -> tuple[str, str]:
    """Status and note of a run; ``waits``: whether its launcher still has the job, None where unknown."""
    if manifest is None:
        if waits is None and launch is not None:
            return "pending", f"submitted on {launch['host']}, which cannot be asked from here"
        return ("pending", "") if waits else ("missing", "it never began")
    status, reason = manifest["status"], str(manifest.get("reason") or "")
    if status == "unreadable":
        return "failed", reason
    if status == "running" and manifests.process_is_gone(manifest):
        status, reason = "killed", "its process is gone"
    if status == "running" and manifest.get("host") != socket.gethostname():
        if waits is False and launch is not None:
            return "killed", f"its job on {manifest.get('host')} has ended"
        silent = clock.seconds_since(manifest.get("updated") or manifest.get("started"))
        if not waits and silent > max(_SILENT_SECONDS, _SILENT_PART * (manifest.get("wall_seconds") or 0)):
            return "silent", f"silent for {clock.duration(silent)} on {manifest.get('host')}"
    if status in ("interrupted", "killed") and waits:
        return "pending", "requeued"
    # A failed run that was launched again: what it wrote is of before.
    if status == "failed" and waits and launch and launch["started"] > str(manifest.get("finished") or ""):
        return "pending", "launched again"
    return status, reason


def _waits(launch: dict[str, Any], number: int, queued: dict[str, str] | None, quiet: float) -> bool | None:
    """Whether a launcher still has a job, waiting or running; None where that cannot be known."""
    job = launch["job_ids"].get(str(number))
    if job is not None and launch["launcher"] in _SLURM:
        return None if queued is None else job in queued
    if launch.get("ended"):
        return False
    if launch["host"] != socket.gethostname():
        return None if quiet < _QUIET_SECONDS else False
    return _alive(int(job if job is not None else launch["pid"]))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _quiet_seconds(written: Iterable[dict[str, Any]]) -> float:
    """Seconds since anything was launched or a run wrote."""
    return min(
        (clock.seconds_since(item.get("updated") or item.get("started")) for item in written),
        default=float("inf"),
    )


# --- telling --------------------------------------------------------------------------------------


def counts(folder: Path) -> str:
    """How many cells stand how: ``3 done, 1 running, 2 pending``."""
    return _counted(cells(folder))


def _counted(found: Sequence[Cell]) -> str:
    number = Counter(cell.status for cell in found)
    return ", ".join(f"{number[status]} {status}" for status in STATUSES if number[status])


def told(folder: Path, found: Sequence[Cell]) -> list[str]:
    """What a report says of a sweep: how many cells stand how, the unfinished, and how they go on.

    Parameters
    ----------
    folder
        The sweep's folder.
    found
        From :func:`cells`.

    Returns
    -------
    list of str
        Lines; none for a sweep that is done.
    """
    if all(cell.status == "done" for cell in found):
        return []
    lines = [f"sweep {folder}: {len(found)} run{'s' * (len(found) != 1)}: {_counted(found)}"]
    for status in (*UNFINISHED, "silent"):
        those = [cell for cell in found if cell.status == status]
        for cell in those[:_SHOWN]:
            number = "" if cell.job is None else cell.job.number
            lines.append(f"  {status:<11} {number:>3}  " + ": ".join(filter(None, (cell.point, cell.note))))
        if len(those) > _SHOWN:
            lines.append(f"  {status:<11}      and {len(those) - _SHOWN} more: cflow list {folder}")
    if any(cell.status in UNFINISHED for cell in found):
        lines.append(f"finish just these: {_resume_command(folder)}")
    if any(cell.status in ("pending", "running") for cell in found):
        cancel = [launch["cancel"] for launch in read(folder).launches if launch.get("cancel")]
        lines += [f"cancel the others: {command}" for command in cancel[-1:]]
    return lines


def _resume_command(folder: Path) -> str:
    """The command that runs the unfinished cells of a sweep."""
    if read(folder).content["jobs"] is None:
        return shlex.join(["cflow", "resume", f"{folder}/NUMBER"])
    return shlex.join(["cflow", "resume", str(folder)])


# --- launching ------------------------------------------------------------------------------------


def launch(hydra: Any, overrides: Sequence[str], config_dir: Path | None) -> int:
    """What ``cflow run -m`` does.

    Parameters
    ----------
    hydra
        From :func:`cflow_cli.config.hydra_session`.
    overrides
        As on the command line.
    config_dir
        A folder of further configs.

    Returns
    -------
    int
        Exit status: 0, 1 if a run did not finish, 130 when interrupted.

    Raises
    ------
    UserError
        If the request cannot be carried out; nothing is written then.
    """
    from .run import _made, _unused

    cfg = configs.composed(hydra, overrides, config_dir, multirun=True)
    _check_launcher(cfg)
    axes, jobs = _planned(hydra, cfg, config_dir)
    folder = Path(cfg.hydra.sweep.dir)
    chosen = any(text.startswith("hydra.sweep.dir=") for text in overrides)
    if chosen and is_sweep(folder):
        if jobs is not None and read(folder).jobs == jobs:
            return resume(folder, [text for text in overrides if _LAUNCHERS.match(text)])
        raise UserError(
            f"{folder} already holds another sweep; choose another folder with hydra.sweep.dir=…, "
            f"or go on with the sweep that is there: {_resume_command(folder)}"
        )
    if chosen:
        _made(folder, again=True)
    else:
        folder = _unused(folder)
    content = {
        "format": 1,
        "axes": axes,
        **manifests.environment(),
        "started": clock.now(),
        "config_dir": None if config_dir is None else str(config_dir.resolve()),
        "overrides": list(overrides),
        "jobs": None if jobs is None else [vars(job) for job in jobs],
        "launches": [],
    }
    _write(folder, content)
    if jobs is not None:
        swept = "; ".join(f"{key} = {', '.join(values)}" for key, values in axes.items())
        print(f"sweep of {len(jobs)} run{'s' * (len(jobs) != 1)}{': ' * bool(swept)}{swept}")
    print(f"folder {folder}", flush=True)
    return _launched(hydra, folder, jobs, overrides)


def resume(folder: Path, overrides: Sequence[str]) -> int:
    """What ``cflow resume SWEEP`` does: launch the cells that did not finish, the same way as before.

    Parameters
    ----------
    folder
        The sweep's folder.
    overrides
        Of the launcher only: ``launcher=slurm launcher.timeout_min=600``.

    Returns
    -------
    int
        Exit status: 0, 1 if a run did not finish, 130 when interrupted.

    Raises
    ------
    UserError
        If there is nothing that can be resumed in this way.
    """
    sweep = read(folder)
    if sweep.content["jobs"] is None:
        raise UserError(
            f"{folder} was made by a sweeper that chooses its points as it goes on; its runs go on one by one: "
            f"{_resume_command(folder)}"
        )
    for text in overrides:
        if not _LAUNCHERS.match(text):
            raise UserError(
                f"{text}: a sweep goes on as it began, only its launcher can change, as in launcher=slurm "
                "launcher.timeout_min=600; for other values start another sweep"
            )
    found = cells(folder)
    jobs = [cell.job for cell in found if cell.status in UNFINISHED and cell.job is not None]
    print(f"sweep {folder}: {_counted(found)}", flush=True)
    if not jobs:
        left = [cell for cell in found if cell.status != "done"]
        print("nothing to rerun" + ("; the others have not ended" if left else ""))
        return 0
    print(f"going on with {len(jobs)}: {', '.join(str(job.number) for job in jobs)}", flush=True)
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
    here = contextlib.chdir(directory if directory.is_dir() else Path.cwd())
    with here, configs.hydra_session(config_dir) as hydra:
        _check_launcher(configs.composed(hydra, everything, config_dir, multirun=True))
        return _launched(hydra, folder, jobs, everything)


def submitted(folder: Path, first: int, ids: Sequence[str], *, slurms: bool) -> None:
    """Note the ids of submitted jobs, so that others can ask for them and cancel them.

    Parameters
    ----------
    folder
        The sweep's folder; nothing is noted in one that is not of ours.
    first
        Place of the first of them among the jobs of the newest launch.
    ids
        What the launcher calls them: SLURM's job ids, or process ids.
    slurms
        Whether they are SLURM's.
    """
    if not is_sweep(folder):
        return
    content = read(folder).content
    entry = content["launches"][-1]
    for place, job in enumerate(ids, first):
        number = entry["jobs"][place] if place < len(entry["jobs"]) else place
        entry["job_ids"][str(number)] = job
    if slurms:
        entry["cancel"] = slurm.cancel_command(entry["job_ids"].values())
    _write(folder, content)


# Overrides that say where jobs run, not what they compute.
_LAUNCHERS = re.compile(r"[+~]*(hydra[./])?launcher[.=]|[+~]*hydra\.sweeper\.max_batch_size=")


def _write(folder: Path, content: dict[str, Any]) -> None:
    write_text(folder / NAME, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _check_launcher(cfg: DictConfig) -> None:
    if str(cfg.hydra.runtime.choices.get("hydra/launcher")) in _SLURM and not slurm.available():
        raise UserError(
            "launcher=slurm: there is no sbatch here; start the sweep on a login node of a SLURM cluster, or "
            "run its jobs on this machine with launcher=submitit_local"
        )


def _planned(
    hydra: Any, cfg: DictConfig, config_dir: Path | None
) -> tuple[dict[str, list[str]], list[Job] | None]:
    """Axes and cells of a sweep, each of its values checked; None for a sweeper that chooses as it goes on."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf, open_dict

    if not str(cfg.hydra.sweeper["_target_"]).endswith(".BasicSweeper"):
        return {}, None
    task = [text for text in cfg.hydra.overrides.task if not _LAUNCHERS.match(text)]
    task = [f"{key}={value}" for key, value in (cfg.hydra.sweeper.params or {}).items()] + task
    try:
        parsed = OverridesParser.create(config_loader=hydra.config_loader).parse_overrides(task)
        (points,) = BasicSweeper.split_arguments(parsed, None)
    except HydraException as error:
        raise UserError(" ".join(str(error).split())) from error
    swept = {override.get_key_element() for override in parsed if override.is_sweep_override()}
    axes = {key: list(dict.fromkeys(_value(point, key) for point in points)) for key in sorted(swept)}
    _check_values(hydra, points, config_dir)
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
    jobs = [Job(number, tuple(point), folders[number]) for number, point in enumerate(points)]
    return axes, jobs


def _check_values(hydra: Any, points: Sequence[Sequence[str]], config_dir: Path | None) -> None:
    """Check every value of a sweep once: not the whole grid, and Hydra composes once per choice of groups."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    parser = OverridesParser.create()
    known_groups = configs.groups(config_dir)
    seen: set[str] = set()
    composed: dict[tuple[str, ...], DictConfig] = {}
    for point in points:
        if seen.issuperset(point):
            continue
        seen.update(point)
        plain = [
            text
            for text in point
            if re.match(r"[\w.]+=", text) and text.partition("=")[0] not in known_groups
        ]
        choices = tuple(text for text in point if text not in plain)
        if choices not in composed:
            composed[choices] = configs.without_hydra(configs.composed(hydra, point, config_dir))
            continue
        cfg = composed[choices].copy()
        try:
            for override in parser.parse_overrides(plain):
                OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            configs.composed(hydra, point, config_dir)  # says it in a sentence
        configs.check(cfg)


def _value(point: Sequence[str], key: str) -> str:
    return next(text for text in point if text.startswith(f"{key}=")).partition("=")[2]


def _launched(hydra: Any, folder: Path, jobs: Sequence[Job] | None, overrides: Sequence[str]) -> int:
    """Run cells through Hydra's launcher; how they ended is asked of the runs themselves."""
    from hydra.types import RunMode

    from .run import _quoted, one_sentence, sweep_job

    master = [*configs.for_hydra(overrides), "hydra.mode=MULTIRUN", f"hydra.sweep.dir={_quoted(folder)}"]
    cfg = hydra.compose_config(
        config_name=configs.PRIMARY, overrides=master, run_mode=RunMode.MULTIRUN, with_log_configuration=True
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
    _write(folder, {**content, "launches": [*content["launches"], entry]})
    status = 0
    try:
        if jobs is None:
            hydra.multirun(config_name=configs.PRIMARY, task_function=sweep_job, overrides=master)
        else:
            _through_launcher(hydra, cfg, jobs, [text for text in overrides if text.startswith("launcher=")])
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
        cancel = read(folder).launches[-1]["cancel"]
        rest = f"; the submitted jobs go on, to cancel them: {cancel}" if cancel else ""
        print(f"interrupted{rest}", file=sys.stderr)
    except UserError:
        raise
    except Exception as error:
        if wants_traceback():
            raise
        # A worker that was killed ends the sweep with some launchers; the runs say what became of them.
        status = EXIT_FAILED
        why = one_sentence(error).split(". ")[0]
        print(f"error: the launcher {_shown(entry['launcher'])} failed: {why}", file=sys.stderr)
    finally:
        content = read(folder).content
        for launch_ in content["launches"]:
            if all(launch_[key] == entry[key] for key in ("started", "host", "pid")):
                launch_["ended"] = clock.now()
        _write(folder, content)
    return _concluded(folder, status)


def _shown(launcher: Any) -> str:
    return str(launcher).removeprefix("cflow_")


def _through_launcher(hydra: Any, cfg: DictConfig, jobs: Sequence[Job], selection: Sequence[str]) -> None:
    """What Hydra's basic sweeper does, for any subset of the cells, each in the folder that is its own."""
    from hydra._internal.callbacks import Callbacks
    from hydra.core.plugins import Plugins
    from hydra.core.utils import JobStatus
    from hydra.types import HydraContext

    from .run import _quoted, sweep_job

    callbacks = Callbacks(cfg)
    callbacks.on_multirun_start(config=cfg, config_name=configs.PRIMARY)
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=HydraContext(config_loader=hydra.config_loader, callbacks=callbacks),
        task_function=sweep_job,
        config=cfg,
    )
    size = cfg.hydra.sweeper.max_batch_size or len(jobs)
    for first in range(0, len(jobs), size):
        batch = [
            [*job.overrides, *selection, f"hydra.sweep.subdir={_quoted(Path(job.folder))}"]
            for job in jobs[first : first + size]
        ]
        for returned in launcher.launch(batch, initial_job_idx=first):
            if returned.status == JobStatus.FAILED:
                _ = returned.return_value  # raises what the job raised
    callbacks.on_multirun_end(config=cfg, config_name=configs.PRIMARY)


def _concluded(folder: Path, status: int) -> int:
    from .run import _summary

    _summary(folder)
    print(f"folder: {folder}")
    found = cells(folder)
    unfinished = [cell for cell in found if cell.status in UNFINISHED]
    if unfinished:
        print(
            f"error: {len(unfinished)} of {len(found)} runs did not finish; {_resume_command(folder)} goes on "
            "with them",
            file=sys.stderr,
        )
    return status or (EXIT_FAILED if unfinished else 0)
