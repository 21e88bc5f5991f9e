"""``cflow report``: a table or a page of runs; reads their Parquet files only and never imports JAX."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cflow_cli.commands.parsing import Parser
from cflow_cli.errors import UserError, printable
from cflow_cli.report import tables


def parser() -> Parser:
    """Build the parser of ``cflow report``."""
    out = Parser(
        prog="cflow report",
        description="One line per run: how well the flows predicted the optimizer. Works while runs go on.",
        epilog="Columns are quantities (see --definitions), columns that a run measured itself, or keys of the "
        "config, such as optimizer.b2.",
    )
    out.add_argument("paths", metavar="PATH", nargs="*", type=Path, help="runs, or folders that hold runs")
    out.add_argument(
        "--format",
        choices=(*tables.FORMATS, "html"),
        default="table",
        help="default: a table for the terminal",
    )
    out.add_argument("--by", metavar="COLUMNS", type=_split, default=[], help="group: mean ± standard error")
    out.add_argument(
        "--metric", metavar="COLUMNS", type=_split, default=[], help="columns to show, by commas"
    )
    out.add_argument("--sort", metavar="COLUMN", help="sort by a column; missing values last")
    out.add_argument("--reverse", action="store_true", help="largest first")
    out.add_argument("--html", metavar="FILE", type=Path, help="write one self-contained web page instead")
    out.add_argument(
        "--watch", action="store_true", help="keep that page fresh until all runs have ended, or Ctrl-C"
    )
    out.add_argument(
        "--every", metavar="SECONDS", type=_seconds, default=5.0, help="how often --watch looks; default: 5"
    )
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
    # Pandas and pyarrow take a second to load, for which help must not wait.
    from cflow_cli.report import definitions, gathering, kernels, overview, page, terminal, watching

    if not arguments.paths:
        if not arguments.definitions:
            raise UserError("which runs? give run folders or folders that hold runs: cflow report outputs")
        _print_definitions(definitions.quantities(["central", "stable"]))
        return 0
    view: dict[str, Any] = {
        "by": arguments.by,
        "metrics": arguments.metric,
        "sort": arguments.sort,
        "reverse": arguments.reverse,
    }
    if arguments.watch:
        if arguments.html is None:
            raise UserError("--watch keeps a page fresh, which needs a file: --html page.html --watch")
        gathered = watching.keep_fresh(arguments.paths, arguments.html, arguments.every, _say, **view)
        _say(*gathered.status_lines())
        return 0
    gathered = gathering.gather(arguments.paths)
    view["swept"] = gathered.swept
    form = arguments.format if arguments.html is None else "html"
    complete = form in tables.FOR_PROGRAMS
    # For a reader, what has not begun is told below the table; a group counts it among its runs.
    every = complete or form == "html" or arguments.by
    shown = gathered.everything if every else gathered.begun
    # Of a page too, for it says which of the columns do not exist.
    table = overview.build(shown, complete=complete, **view) if shown else None
    if gathered.kernels and not shown and form == "html":
        raise UserError("a page is of runs, and there are only kernels here: choose another --format")
    if arguments.html is not None:
        page.write_page(shown, arguments.html, **view)
        print(arguments.html)
    elif form == "html":
        sys.stdout.write(page.render_page(shown, **view))
    elif table and form == "table":
        terminal.print_report(table, terminal.make_console())
        if arguments.definitions:
            _print_definitions(table.columns)
    elif table:
        sys.stdout.write(tables.render(table, form))
    if gathered.kernels and form == "table":
        terminal.print_table(kernels.table(gathered.kernels, gathered.swept), terminal.make_console())
    elif gathered.kernels and not shown:
        sys.stdout.write(tables.render(kernels.table(gathered.kernels, gathered.swept), form))
    sys.stdout.flush()
    # Where the output is for a program, what is said beside it must not be in it.
    beside = sys.stdout if form == "table" else sys.stderr
    for line in gathered.status_lines():
        print(printable(line), file=beside)
    return 0


def _print_definitions(columns: Sequence[tables.Column]) -> None:
    for column in columns:
        print(printable(f"{column.name}: {column.meaning}"))


def _say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds < float("inf"):
        raise ArgumentTypeError(f"must be a number of seconds from 0.1 on, got {text!r}")
    return seconds


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
