"""Sweeps as they are on disk: which runs one consists of, and how each of them stands.

A sweep folder has a ``sweep.json``, written before the first job starts: what was swept, the command, and the
number, overrides and folder of each job. So a job that was killed before it wrote anything is known to be missing.
"""

from __future__ import annotations

import re
import shlex
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cflow_cli import clock
from cflow_cli.errors import UserError, attempt
from cflow_cli.runs import slurm
from cflow_cli.storage import digests, files, manifests

NAME = "sweep.json"

# A run writes at least every hundredth of its age; a first chunk may compile for minutes.
_NO_NEWS_SECONDS = 900.0
_NO_NEWS_PART = 0.05

STATUSES = ("done", "running", "pending", "no_news", "interrupted", "failed", "killed", "missing")
UNFINISHED = ("interrupted", "failed", "killed", "missing")

# A launching process on a machine that cannot be asked counts as gone when its sweep was quiet for so long.
_QUIET_SECONDS = 3600.0
SLURM_LAUNCHERS = ("cflow_slurm", "submitit_slurm")
_MOST_LISTED = 12


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
        """Its cells; for a sweeper that chooses them one after the other, those that were begun."""
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
    for folder, inside, names in files.walk(path):
        if NAME in names or manifests.NAME in names or ("metrics" in inside and manifests.is_run(folder)):
            yield folder, NAME in names
            inside.clear()


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
        sweep = Sweep(folder, digests.read_sealed(path))
        _check_form(sweep)
        return sweep
    except FileNotFoundError:
        raise UserError(f"{folder} is not a sweep: it has no {NAME}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _check_form(sweep: Sweep) -> None:
    """Touch all that is used of a sweep's description, so that one of another form is found out here."""
    for job in sweep.jobs:
        if type(job.number) is not int or not all(
            isinstance(text, str) for text in (job.folder, *job.overrides)
        ):
            raise ValueError(f"job {job.number!r} is none")
    for values in sweep.axes.values():
        ", ".join(values)
    for launch in sweep.launches:
        texts = (launch["host"], launch["launcher"], launch["started"], *launch["job_ids"].values())
        if not all(isinstance(text, str) for text in texts) or not all(
            type(n) is int for n in launch["jobs"]
        ):
            raise ValueError("a launch is none")
        int(launch["pid"])


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
    manifest_of = {job.number: _read_manifest(folder / job.folder) for job in sweep.jobs}
    # The queue is asked only if somebody may be in it.
    asked = [
        launch["job_ids"][str(number)]
        for number, launch in launches.items()
        if launch["launcher"] in SLURM_LAUNCHERS
        and str(number) in launch["job_ids"]
        and (manifest_of.get(number) or {}).get("status") != "done"
    ]
    queued = slurm.queued(asked)
    quiet = _quiet_seconds([*launches.values(), *filter(None, manifest_of.values())])
    found = []
    for job in sweep.jobs:
        launch = launches.get(job.number)
        waits = False if launch is None else _has_job(launch, job.number, queued, quiet)
        status, note = status_of(manifest_of[job.number], waits, launch)
        manifest = manifest_of[job.number] or {}
        point = sweep.point(job) if job.overrides else " ".join(manifest.get("overrides") or [])
        found.append(Cell(folder / job.folder, status, note, manifest, job, point))
    return found


def run_cell(folder: Path) -> Cell:
    """How a run that is no part of a sweep stands."""
    manifest = _read_manifest(folder)
    return Cell(folder, *status_of(manifest, None, None), manifest or {})


def standing(path: Path) -> Iterator[Cell]:
    """How every run and cell at or below a path stands, each read on its own.

    A sweep that cannot be read is a cell that says why; its runs follow, each by itself.
    """
    for folder, is_sweep in walk(path):
        found, why = attempt(lambda: cells(folder) if is_sweep else [run_cell(folder)], folder)  # noqa: B023
        if found is not None:
            yield from found
            continue
        yield Cell(folder, "failed", why or "")
        if is_sweep:
            for inside in sorted(folder.iterdir()):
                if inside.is_dir() and inside.name[0] != ".":
                    yield from standing(inside)


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        return manifests.read(folder)
    except UserError as error:
        if manifests.is_run(folder):
            return {"status": "unreadable", "reason": str(error)}
        return None


def status_of(
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
        if not waits and silent > max(_NO_NEWS_SECONDS, _NO_NEWS_PART * (manifest.get("wall_seconds") or 0)):
            return "no_news", f"no news for {clock.duration(silent)} on {manifest.get('host')}"
    if status in ("interrupted", "killed") and waits:
        return "pending", "requeued"
    # A failed run that was launched again: what it wrote is of before.
    if status == "failed" and waits and launch and launch["started"] > str(manifest.get("finished") or ""):
        return "pending", "launched again"
    return status, reason


def _has_job(launch: dict[str, Any], number: int, queued: dict[str, str] | None, quiet: float) -> bool | None:
    """Whether a launcher still has a job, waiting or running; None where that cannot be known."""
    job = launch["job_ids"].get(str(number))
    if job is not None and launch["launcher"] in SLURM_LAUNCHERS:
        return None if queued is None else job in queued
    if launch.get("ended"):
        return False
    if launch["host"] != socket.gethostname():
        return None if quiet < _QUIET_SECONDS else False
    return manifests.is_alive(int(job if job is not None else launch["pid"]))


def _quiet_seconds(written: Iterable[dict[str, Any]]) -> float:
    """Seconds since anything was launched or a run wrote."""
    return min(
        (clock.seconds_since(item.get("updated") or item.get("started")) for item in written),
        default=float("inf"),
    )


# --- telling --------------------------------------------------------------------------------------


def headline(sweep: Sweep, folder: str, overrides: Sequence[str], trials: int | None = None) -> str:
    """What a run of a sweep says first: ``run 3 of 9 · lr=0.1 seed=2 · about 4 min left``.

    Parameters
    ----------
    sweep
        As read when the run begins.
    folder
        The run's folder, within the sweep's.
    overrides
        The run's.
    trials
        Runs that there will be, where a sweeper chooses them as it goes.
    """
    job = next((job for job in sweep.jobs if job.folder == folder), None)
    if sweep.content["jobs"] is None:
        number, total = int(folder) + 1 if folder.isdigit() else None, trials
        point = " ".join(text for text in overrides if text not in sweep.content["overrides"])
    else:
        number, total = None if job is None else job.number + 1, len(sweep.jobs)
        point = "" if job is None else sweep.point(job)
    which = f"run {'' if number is None else number}" + (f" of {total}" if total else "")
    left = None if total is None else _seconds_left(sweep, total)
    parts = [which, point, "" if left is None else f"about {clock.duration(left)} left"]
    return " · ".join(filter(None, parts))


def _seconds_left(sweep: Sweep, total: int) -> float | None:
    """Time until the last run ends, if runs go on ending as since the newest launch; None before the first has."""
    launch = sweep.launches[-1]
    numbers = launch["jobs"] or range(total)
    folders = {job.number: sweep.folder / job.folder for job in sweep.jobs if job.number in numbers}
    ended = 0
    for folder in folders.values():
        manifest = _read_manifest(folder) or {}
        ended += str(manifest.get("finished") or "") >= launch["started"]
    return clock.seconds_since(launch["started"]) / ended * (len(numbers) - ended) if ended else None


def count_statuses(found: Sequence[Cell]) -> str:
    """How many cells there are of each status, as ``3 done, 1 running``."""
    number = Counter(cell.status for cell in found)
    return ", ".join(f"{number[status]} {status}" for status in STATUSES if number[status])


def status_lines(folder: Path, found: Sequence[Cell]) -> list[str]:
    """What a report says of a sweep: how many cells stand how, the unfinished, and how they are continued.

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
    lines = [f"sweep {folder}: {len(found)} run{'s' * (len(found) != 1)}: {count_statuses(found)}"]
    for status in (*UNFINISHED, "no_news"):
        those = [cell for cell in found if cell.status == status]
        for cell in those[:_MOST_LISTED]:
            number = "" if cell.job is None else cell.job.number
            lines.append(f"  {status:<11} {number:>3}  " + ": ".join(filter(None, (cell.point, cell.note))))
        if len(those) > _MOST_LISTED:
            lines.append(f"  {status:<11}      and {len(those) - _MOST_LISTED} more: cflow list {folder}")
    if any(cell.status in UNFINISHED for cell in found):
        lines.append(f"finish just these: {resume_command(folder)}")
    if any(cell.status in ("pending", "running") for cell in found):
        cancel = [launch["cancel"] for launch in read(folder).launches if launch.get("cancel")]
        # Of a file that may come from anywhere only what is such a command is shown, for somebody may run it.
        lines += [
            f"cancel the others: {text}" for text in cancel[-1:] if re.fullmatch(r"scancel [\d ]+", text)
        ]
    return lines


def resume_command(folder: Path) -> str:
    """The command that runs the unfinished cells of a sweep."""
    if read(folder).content["jobs"] is None:
        return shlex.join(["cflow", "resume", f"{folder}/NUMBER"])
    return shlex.join(["cflow", "resume", str(folder)])


def note_job_ids(folder: Path, first: int, ids: Sequence[str], *, slurms: bool) -> None:
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
    write(folder, content)


def write(folder: Path, content: dict[str, Any]) -> None:
    """Write the description of a sweep into its folder."""
    digests.write_sealed(folder / NAME, content)
