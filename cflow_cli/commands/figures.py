"""``cflow figures``: run what is missing, draw, check."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cflow_cli.commands.parsing import Parser
from cflow_cli.errors import EXIT_FAILED, EXIT_INTERRUPTED, UserError
from cflow_cli.figures import experiment
from cflow_cli.figures.claims import Claim
from cflow_cli.figures.experiment import SIZES, Experiment


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cflow figures``.

    Parameters
    ----------
    argv
        Arguments after ``figures``; by default those of the process.

    Returns
    -------
    int
        Exit status: 0, 1 where a claim does not hold, 130 when interrupted.

    Raises
    ------
    UserError
        For an unknown figure or size, or a run that cannot be made.
    """
    words = list(sys.argv[2:] if argv is None else argv)
    args = parser().parse_intermixed_args(words)
    names = [word for word in args.words if "=" not in word]
    overrides = [word for word in args.words if "=" in word]
    if not names and not args.all:
        if overrides or args.commands or args.readme or args.gallery:
            raise UserError("which figure? name some, or take --all; cflow figures alone lists them")
        print("\n".join(experiment.listing(experiment.find([]))))
        return 0
    if names and args.all:
        raise UserError("give names of figures or --all, not both")
    size = _size(overrides)
    overrides = [word for word in overrides if not word.startswith("size=")]
    chosen = experiment.find(names)
    if args.commands or args.readme:
        return _tell(chosen, size, overrides, args)
    try:
        return _make(chosen, size, overrides, args)
    except KeyboardInterrupt:
        again = shlex.join(["cflow", "figures", *words])
        print(f"interrupted; the same command goes on from the runs that are there: {again}", file=sys.stderr)
        return EXIT_INTERRUPTED


def _tell(chosen: Sequence[Experiment], size: str, overrides: Sequence[str], args: argparse.Namespace) -> int:
    """Print the commands of the runs, or write the tables of checks."""
    # Pandas and matplotlib, which neither help nor the list load.
    from cflow_cli.figures import making, readme

    if args.commands:
        for command in making.commands(chosen, size, overrides, args.output / "runs"):
            print(command)
    else:
        for figure in chosen:
            print(readme.update(figure))
    return 0


def _make(chosen: Sequence[Experiment], size: str, overrides: Sequence[str], args: argparse.Namespace) -> int:
    """Make figures one after the other."""

    def announce(figure: Experiment) -> None:
        print(f"{figure.name} ({size}): {figure.title}", flush=True)

    announce(chosen[0])
    # Pandas and matplotlib take seconds to load, for which the first words must not wait.
    from cflow_cli.figures import gallery, making

    for figure in chosen:
        figure.plan(size)  # one that cannot be loaded is told before any is made
    made: list[list[Claim]] = []
    for figure in chosen:
        if made:
            announce(figure)
        made.append(making.make(figure, size, args.output, overrides))
    if args.gallery is not None:
        gallery.write(args.gallery, chosen, size, args.output)
    if len(made) > 1:
        print("\n".join(gallery.summary(chosen, made, size)))
    return EXIT_FAILED if any(not claim.passed for claims in made for claim in claims) else 0


def words(_: Sequence[str]) -> list[str]:
    """What a word of its command line can be: a figure, a part of the figures, a size."""
    folders = experiment.folders().values()
    parts = {
        above for folder in folders for above in folder.relative_to(experiment.experiments_dir()).parents
    }
    names = [folder.name for folder in folders]
    return [
        *names,
        *sorted(part.as_posix() for part in parts if part.name),
        *(f"size={size}" for size in SIZES),
    ]


def parser() -> Parser:
    """Build the parser of ``cflow figures``."""
    out = Parser(
        prog="cflow figures",
        description="Make figures of the papers again: run what is missing, reuse what is there, draw, and check the "
        "claims. Without names it lists the figures.",
        epilog="examples: cflow figures edge-cycle; cflow figures central-flows/rmsprop; "
        "cflow figures rank size=paper device=gpu; cflow figures --all",
    )
    out.add_argument(
        "words",
        metavar="NAME|key=value",
        nargs="*",
        help="figures, by name, part or folder; size=mini (minutes on two cores, the default) or size=paper (hours "
        "on a GPU); further overrides go to every run: device=gpu, data.root=PATH",
    )
    out.add_argument("--all", action="store_true", help="every figure")
    out.add_argument(
        "--output",
        metavar="FOLDER",
        type=Path,
        default=Path("outputs/figures"),
        help="default: outputs/figures",
    )
    out.add_argument("--commands", action="store_true", help="only print the commands of the runs")
    out.add_argument(
        "--readme", action="store_true", help="only write the tables of claims into the figures' READMEs"
    )
    out.add_argument("--gallery", metavar="FILE", type=Path, help="also write a page that shows the figures")
    return out


def _size(overrides: Sequence[str]) -> str:
    size = next((word.removeprefix("size=") for word in overrides if word.startswith("size=")), SIZES[0])
    if size not in SIZES:
        raise UserError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
    return size
