"""What a report is on: the runs below some paths, and the cells of sweeps that have not begun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cflow_cli.errors import UserError, attempt
from cflow_cli.report import yardstick
from cflow_cli.report.summary import Summary, names_of, not_begun, summarise_folder
from cflow_cli.runs import sweeps
from cflow_cli.runs.sweeps import Cell
from cflow_cli.storage import find_kernels, find_runs


@dataclass(frozen=True)
class Gathered:
    """Summaries of runs, and the sweeps they are of.

    Parameters
    ----------
    begun
        One per run, in the order of the folders.
    everything
        The cells that have not begun too; those of a sweep in the order of their numbers.
    sweeps
        Folder of each sweep -> its cells.
    swept
        Config keys that were swept.
    faults
        Sentences on sweeps that cannot be read; their runs are there all the same.
    kernels
        Folders of ``cflow kernel``.
    """

    begun: list[Summary]
    everything: list[Summary]
    sweeps: dict[Path, list[Cell]]
    swept: list[str]
    faults: list[str]
    kernels: list[Path]

    def status_lines(self) -> list[str]:
        """Which runs of sweeps did not finish, how they are continued, and which sweeps cannot be read."""
        told = [line for folder, found in self.sweeps.items() for line in sweeps.status_lines(folder, found)]
        return [*told, *self.faults]


def gather(paths: Sequence[Path]) -> Gathered:
    """Summarise all runs at or below some paths.

    Parameters
    ----------
    paths
        Runs, sweeps, or folders that hold them.

    Raises
    ------
    UserError
        When a path does not exist, or none holds a run.
    """
    folders = find_runs(paths)
    cells: dict[Path, list[Cell]] = {}
    faults: list[str] = []
    for folder in sweeps.find(paths):
        found, why = attempt(lambda: sweeps.cells(folder), folder)  # noqa: B023
        if found is not None:
            cells[folder] = found
        else:
            faults.append(why or "")
    waiting = [cell for found in cells.values() for cell in found if not cell.manifest]
    kernels = find_kernels(paths)
    if not folders and not waiting and not kernels:
        where = ", ".join(str(path) for path in paths)
        raise UserError(f"no run in {where}: a run folder has a manifest.json; start one with cflow run")
    everything = [*folders, *(cell.folder for cell in waiting)]
    names = names_of(everything) if everything else []
    begun = [summarise_folder(*pair) for pair in zip(folders, names)]
    # The queue knows more than a manifest of a job that was killed on another machine.
    status_of = {cell.folder.resolve(): cell.status for found in cells.values() for cell in found}
    for summary in begun:
        if summary.values["status"] not in ("unreadable", "done", "diverged"):
            summary.values["status"] = status_of.get(summary.folder.resolve(), summary.values["status"])
    yardstick.add(begun)
    others = [not_begun(cell, name) for cell, name in zip(waiting, names[len(folders) :])]
    swept = dict.fromkeys(key for folder in cells for key in sweeps.read(folder).axes)
    return Gathered(begun, _order_by_number([*begun, *others], cells), cells, list(swept), faults, kernels)


def _order_by_number(summaries: Sequence[Summary], cells: Mapping[Path, Sequence[Cell]]) -> list[Summary]:
    """Put the cells of each sweep in the order of their numbers, also those that have not begun."""
    number = {
        cell.folder.resolve(): (folder, place)
        for folder, found in cells.items()
        for place, cell in enumerate(found)
    }
    first: dict[Path, int] = {}
    keys = []
    for place, summary in enumerate(summaries):
        sweep, within = number.get(summary.folder.resolve(), (summary.folder, 0))
        keys.append((first.setdefault(sweep, place), within))
    return [summaries[place] for place in sorted(range(len(summaries)), key=keys.__getitem__)]
