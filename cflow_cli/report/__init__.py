"""Reports on runs: reads their Parquet files only and never imports JAX."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from cflow_cli.commandline import Parser

if TYPE_CHECKING:
    from cflow_cli.report.summary import Summary
    from cflow_cli.report.table import Table
    from cflow_cli.sweeps import Cell

_FORMATS = ("table", "md", "csv", "latex", "html", "json")


def parser() -> Parser:
    """Build the parser of ``cflow report``."""
    out = Parser(
        prog="cflow report",
        description="One line per run: how well the flows predicted the optimizer. Works while runs go on.",
        epilog="Columns are quantities (see --definitions) or keys of the config, such as optimizer.b2.",
    )
    out.add_argument("paths", metavar="PATH", nargs="*", type=Path, help="runs, or folders that hold runs")
    out.add_argument("--format", choices=_FORMATS, default="table", help="default: a table for the terminal")
    out.add_argument("--by", metavar="COLUMNS", type=_names, default=[], help="group: mean ± standard error")
    out.add_argument(
        "--metric", metavar="COLUMNS", type=_names, default=[], help="columns to show, by commas"
    )
    out.add_argument("--sort", metavar="COLUMN", help="sort by a column; missing values last")
    out.add_argument("--reverse", action="store_true", help="largest first")
    out.add_argument("--html", metavar="FILE", type=Path, help="write one self-contained web page instead")
    out.add_argument("--definitions", action="store_true", help="say what each column means")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cflow report``.

    Parameters
    ----------
    argv
        Arguments after ``report``; by default those of the process.

    Returns
    -------
    int
        Exit status.

    Raises
    ------
    UserError
        When a path holds no run, or a column does not exist.
    """
    arguments = parser().parse_args(argv)
    # Imported late: --help and completion answer before pandas is loaded.
    from cflow_cli import sweeps
    from cflow_cli.errors import UserError
    from cflow_cli.report import summary, table
    from cflow_cli.report.definitions import quantities
    from cflow_cli.storage import find_runs

    if arguments.definitions and not arguments.paths:
        for quantity in quantities(["central", "stable"]):
            print(f"{quantity.name}: {quantity.meaning}")
        return 0
    if not arguments.paths:
        raise UserError("which runs? give run folders or folders that hold runs: cflow report outputs")
    folders = find_runs(arguments.paths)
    cells = {folder: sweeps.cells(folder) for folder in sweeps.find(arguments.paths)}
    # Where the output is for a program, what is said beside it must not be in it.
    beside = sys.stdout if arguments.format == "table" and arguments.html is None else sys.stderr
    waiting = [cell for found in cells.values() for cell in found if not cell.manifest]
    if not folders and not waiting:
        where = ", ".join(str(path) for path in arguments.paths)
        raise UserError(f"no run in {where}: a run folder has a manifest.json; start one with cflow run")
    names = summary.names_of([*folders, *(cell.folder for cell in waiting)])
    summaries = [summary.summarise_folder(*pair) for pair in zip(folders, names)]
    # The queue knows more than a manifest of a job that was killed on another machine.
    standing = {cell.folder.resolve(): cell.status for found in cells.values() for cell in found}
    for one in summaries:
        if one.values["status"] not in ("unreadable", "done", "diverged"):
            one.values["status"] = standing.get(one.folder.resolve(), one.values["status"])
    not_begun = [summary.not_begun(cell, name) for cell, name in zip(waiting, names[len(folders) :])]
    everything = _in_order([*summaries, *not_begun], cells)
    swept = [key for folder in cells for key in sweeps.read(folder).axes]
    view = {
        "by": arguments.by,
        "metrics": arguments.metric,
        "sort": arguments.sort,
        "reverse": arguments.reverse,
        "swept": list(dict.fromkeys(swept)),
    }
    if arguments.html is not None or arguments.format == "html":
        from cflow_cli.report import page

        table.build(everything, **view)  # says which of the columns do not exist
        if arguments.html is None:
            sys.stdout.write(page.render_page(everything, **view))
        else:
            page.write_page(everything, arguments.html, **view)
            print(arguments.html)
        _tell(cells, beside)
        return 0
    complete = arguments.format in ("csv", "json")
    # For a reader, what has not begun is told below the table; a group counts it among its runs.
    shown = everything if complete or arguments.by else summaries
    if shown:
        built = table.build(shown, complete=complete, **view)
        _print(built, arguments.format, arguments.definitions)
    _tell(cells, beside)
    return 0


def _in_order(summaries: Sequence[Summary], cells: Mapping[Path, Sequence[Cell]]) -> list[Summary]:
    """Put the cells of each sweep in the order of their numbers, also those that have not begun."""
    number = {
        cell.folder.resolve(): (folder, place)
        for folder, found in cells.items()
        for place, cell in enumerate(found)
    }
    first: dict[Path, int] = {}
    keys = []
    for place, one in enumerate(summaries):
        sweep, within = number.get(one.folder.resolve(), (one.folder, 0))
        keys.append((first.setdefault(sweep, place), within))
    return [summaries[place] for place in sorted(range(len(summaries)), key=keys.__getitem__)]


def _print(built: Table, form: str, definitions: bool) -> None:
    from cflow_cli.report import table, terminal

    if form != "table":
        sys.stdout.write(table.render(built, form))
        return
    from rich.console import Console

    # Into a file or a pipe the table is as wide as it needs to be.
    console = Console(width=None if sys.stdout.isatty() else 400, highlight=False)
    terminal.print_table(built, console)
    if definitions:
        for quantity in built.columns:
            print(f"{quantity.name}: {quantity.meaning}")


def _tell(cells: Mapping[Path, Sequence[Cell]], out: TextIO) -> None:
    """Say which runs of sweeps did not finish, and how they go on."""
    from cflow_cli import sweeps

    sys.stdout.flush()
    for folder, found in cells.items():
        for line in sweeps.told(folder, found):
            print(line, file=out)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
