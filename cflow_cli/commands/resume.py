"""``cflow resume``: continue a run, or the unfinished runs of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cflow_cli.commands.parsing import Parser
from cflow_cli.commands.run import conclude, conclude_sweep
from cflow_cli.config.settings import CHANGEABLE
from cflow_cli.errors import UserError
from cflow_cli.runs.sweeps import is_sweep


def parser() -> Parser:
    """Build the parser of ``cflow resume``."""
    out = Parser(
        prog="cflow resume",
        description="Continue a run from its newest checkpoint, or every unfinished run of a sweep.",
        epilog="examples: cflow resume outputs/…; cflow resume outputs/… steps=1000; "
        "cflow resume outputs/… data.microbatch=100 device=cpu",
    )
    out.add_argument("folder", type=Path, help="folder of a run or of a sweep")
    out.add_argument("overrides", metavar="key=value", nargs="*", help=f"of {', '.join(CHANGEABLE)}")
    out.add_argument(
        "-cd", "--config-dir", type=Path, help="the folder of your own configs that it was started with"
    )
    out.add_argument(
        "--trust", action="store_true", help="run whatever the folder names; without it a folder is data only"
    )
    return out


def main(argv: Sequence[str]) -> int:
    """Run ``cflow resume``; the exit status is that of ``cflow run``.

    Raises
    ------
    UserError
        If the folder holds no run, or an override would make it another one.
    """
    args = parser().parse_intermixed_args(argv)
    folder = args.folder.expanduser()
    config_dir = None if args.config_dir is None else args.config_dir.expanduser()
    if config_dir is not None and not config_dir.is_dir():
        raise UserError(f"--config-dir: {config_dir} is not an existing folder")
    # Hydra takes half a second to load, for which help must not wait.
    from cflow_cli.commands import starting

    if is_sweep(folder):
        return conclude_sweep(starting.resume_sweep(folder, args.overrides, config_dir, trust=args.trust))
    return conclude(starting.resume(folder, args.overrides, config_dir, trust=args.trust))
