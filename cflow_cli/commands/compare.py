"""``cflow compare``: two runs side by side, and where their trajectories part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cflow_cli import storage
from cflow_cli.commands.parsing import Parser


def parser() -> Parser:
    """Build the parser of ``cflow compare``."""
    out = Parser(
        prog="cflow compare",
        description="Two runs side by side: settings that differ, results, and the first step at which they differ.",
        epilog="example: cflow compare outputs/A outputs/B --barrier",
    )
    out.add_argument(
        "--barrier",
        action="store_true",
        help="also the barrier on the straight line between their ends, for which the network is built again",
    )
    for name in ("first", "second"):
        out.add_argument(name, metavar="RUN", type=Path, help="a run folder")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cflow compare``.

    Parameters
    ----------
    argv
        Arguments after ``compare``; by default those of the process.

    Returns
    -------
    int
        Exit status.

    Raises
    ------
    UserError
        When one of the two is not a run or cannot be read.
    """
    arguments = parser().parse_args(argv)
    # Pandas and pyarrow take a second to load, for which help must not wait.
    from cflow_cli.report import comparison, summary, terminal

    runs = [storage.read_run(arguments.first), storage.read_run(arguments.second)]
    names = summary.names_of([run.folder for run in runs])
    rows = [summary.summarise(run, name) for run, name in zip(runs, names)]
    console = terminal.make_console()
    settings, partings = comparison.differing_settings(rows), comparison.partings(runs)
    if settings.rows:
        console.print("settings that differ", style="bold")
        terminal.print_table(settings, console)
    else:
        console.print("all settings are the same")
    console.print("results", style="bold")
    terminal.print_table(comparison.results(rows), console, row_style=_dim_if_equal)
    if partings.rows:
        console.print("first step at which the losses differ", style="bold")
        terminal.print_table(partings, console)
    else:
        console.print("the runs have no process in common")
    if arguments.barrier:
        # JAX, without which runs are compared.
        from cflow_cli.commands import tracing

        console.print(tracing.straight_line(arguments.first, arguments.second), markup=False)
    for row in rows:
        for note in row.notes:
            console.print(f"{row.get('run')}: {note}", style="yellow", soft_wrap=True, markup=False)
    return 0


def _dim_if_equal(texts: Sequence[str]) -> str:
    """What is the same steps back behind what differs."""
    return "dim" if texts[1] == texts[2] else ""
