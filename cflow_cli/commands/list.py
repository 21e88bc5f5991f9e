"""``cflow list``: which runs there are, how each stands, how far it is and how long it will take."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from cflow_cli.commands.parsing import Parser
from cflow_cli.errors import UserError
from cflow_cli.report import listing, tables
from cflow_cli.runs import sweeps


def parser() -> Parser:
    """Build the parser of ``cflow list``."""
    out = Parser(
        prog="cflow list",
        description="List runs and the cells of sweeps, begun or not: status, progress, age, time left. "
        "Works while they run, also from another machine.",
    )
    out.add_argument("paths", metavar="PATH", nargs="*", type=Path, help="default: outputs")
    out.add_argument(
        "--status", metavar="A,B", default="", help=f"only these of {', '.join(sweeps.STATUSES)}"
    )
    out.add_argument(
        "--format", choices=tables.FORMATS, default="table", help="default: a table for the terminal"
    )
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cflow list``.

    Parameters
    ----------
    argv
        Arguments after ``list``.

    Returns
    -------
    int
        Exit status.

    Raises
    ------
    UserError
        When a path does not exist, or a status is none.
    """
    arguments = parser().parse_args(argv)
    wanted = [word.strip() for word in arguments.status.split(",") if word.strip()]
    for word in wanted:
        if word not in sweeps.STATUSES:
            raise UserError(f"--status: no status {word!r}; there are {', '.join(sweeps.STATUSES)}")
    paths = [path.expanduser() for path in arguments.paths or [Path("outputs")]]
    rows = [row for row in listing.list_runs(paths) if not wanted or row.status in wanted]
    table = listing.to_table(rows, complete=arguments.format in tables.FOR_PROGRAMS)
    if arguments.format != "table":
        sys.stdout.write(tables.render(table, arguments.format))
    elif rows:
        # Rich takes a tenth of a second to load, for which help must not wait.
        from cflow_cli.report import terminal

        terminal.print_table(table, terminal.make_console())
    else:
        print("nothing here")
    return 0
