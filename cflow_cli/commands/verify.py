"""``cflow verify``: whether the files of runs and sweeps are what was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cflow_cli import storage
from cflow_cli.commands.parsing import Parser
from cflow_cli.errors import EXIT_FAILED, UserError, attempt
from cflow_cli.runs import sweeps


def parser() -> Parser:
    """Build the parser of ``cflow verify``."""
    out = Parser(
        prog="cflow verify",
        description="Hold every file of runs and sweeps against its digest: Parquet parts, checkpoints, configs and "
        "manifests. Says which files are damaged or missing; changes nothing. Works while runs go on.",
        epilog="What is damaged in a run: cflow resume RUN makes it again where it can.",
    )
    out.add_argument("paths", metavar="PATH", nargs="*", type=Path, help="default: outputs")
    return out


def main(argv: Sequence[str]) -> int:
    """Run ``cflow verify``; the exit status is 1 where something is damaged or missing.

    Raises
    ------
    UserError
        When a path does not exist or holds no run.
    """
    arguments = parser().parse_args(argv)
    paths = [path.expanduser() for path in arguments.paths or [Path("outputs")]]
    runs, found = [*storage.find_runs(paths), *storage.find_kernels(paths)], sweeps.find(paths)
    if not runs and not found:
        raise UserError(f"no run in {', '.join(map(str, paths))}: a run folder has a manifest.json")
    damaged = 0
    for folder in found:
        sweep, why = attempt(lambda: sweeps.read(folder), folder)  # noqa: B023
        if sweep is None:
            damaged += 1
            print(why)
    for folder in runs:
        faults, why = attempt(lambda: storage.faults(folder), folder)  # noqa: B023
        told = [why or ""] if faults is None else faults
        damaged += bool(told)
        for fault in told:
            print(fault, flush=True)
    total = len(runs) + len(found)
    what = (
        f"{len(runs)} run{'s' * (len(runs) != 1)}"
        + f", {len(found)} sweep{'s' * (len(found) != 1)}" * bool(found)
    )
    print(f"{what}: {total - damaged} whole" + f", {damaged} not" * bool(damaged))
    return EXIT_FAILED if damaged else 0
