"""``cflow plot``: the standard panel of each run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cflow_cli.commands.parsing import Parser
from cflow_cli.errors import UserError

FORMATS = ("png", "svg", "pdf")


def parser() -> Parser:
    """Build the parser of ``cflow plot``."""
    out = Parser(
        prog="cflow plot",
        description="Draw the standard panel of each run: loss, effective eigenvalues, distances, variances "
        "of the oscillation, gradient norm, step size. Works while runs go on.",
    )
    out.add_argument("paths", metavar="RUN", nargs="+", type=Path, help="runs, or folders that hold runs")
    out.add_argument("--format", choices=FORMATS, default="png", help="default: png")
    out.add_argument("--output", metavar="FOLDER", type=Path, help="default: panel.png in each run's folder")
    return out


def main(argv: Sequence[str]) -> int:
    """Run ``cflow plot``.

    Parameters
    ----------
    argv
        Arguments after ``plot``.

    Returns
    -------
    int
        Exit status.

    Raises
    ------
    UserError
        When a path holds no run, or a run nothing to draw.
    """
    arguments = parser().parse_args(argv)
    # Pandas and matplotlib take a second to load, for which help must not wait.
    from cflow_cli.report import plot, summary
    from cflow_cli.storage import find_runs, read_run

    folders = find_runs(arguments.paths)
    if not folders:
        raise UserError(f"no run in {', '.join(map(str, arguments.paths))}: a run folder has a manifest.json")
    for folder, name in zip(folders, summary.names_of(folders)):
        if arguments.output is None:
            path = folder / f"panel.{arguments.format}"
        else:
            path = arguments.output / f"{name.replace('/', '_')}.{arguments.format}"
        plot.save_panel(read_run(folder), path)
        print(path)
    return 0
