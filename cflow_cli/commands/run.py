"""``cflow run``: its options, its help, and what is said at its end."""

from __future__ import annotations

import math
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cflow_cli import together
from cflow_cli.commands import report
from cflow_cli.commands.parsing import Parser
from cflow_cli.config import tree
from cflow_cli.config.settings import SETTINGS
from cflow_cli.errors import EXIT_FAILED, UserError, printable
from cflow_cli.runs import sweeps

if TYPE_CHECKING:
    from cflow_cli.runs.run import RunResult
    from cflow_cli.runs.sweeping import SweepResult

_EPILOG = """\
examples:
  cflow run
  cflow run optimizer=adam lr=0.01
  cflow run optimizer=rmsprop optimizer.decay=0.95 data.n=400 'model.widths=[64,64]' dtype=float64
  cflow run lr=0.2 schedule=cosine steps=1000
  cflow run 'processes=[discrete,central]' processes.central.substeps=4
  cflow run 'processes=[discrete,central,linear]'
  cflow run -m lr=0.02,0.05,0.1 seed=0,1,2
  cflow run -m optimizer=gd,rmsprop,adam lr_factor=0.5,1,2
  cflow run -m launcher=slurm launcher.partition=gpu optimizer=gd,rmsprop 'seed=range(5)'
  cflow run -m experiment=rates
  cflow run --config-dir my_configs model=mine
"""

# Further keys that help names: inside groups, with the comments of conf/, and of Hydra.
_INSIDE = (
    "data.n",
    "model.widths",
    "eigs.every",
    "eigs.max_tracked",
    "processes.central.substeps",
    "processes.central.third_derivatives_every",
    "processes.linear.anchor",
)
_ELSEWHERE = {
    "hydra.run.dir": "the run folder itself",
    "hydra.sweep.dir": "the folder of a sweep",
    "launcher.partition": "of launcher=slurm; --cfg hydra --package hydra.launcher launcher=slurm shows all",
}


_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")


def main(argv: Sequence[str]) -> int:
    """Run ``cflow run``; the exit status is 0, 1 for a run that failed, 130 for one that was interrupted.

    Raises
    ------
    UserError
        If the request cannot be carried out; nothing is written then.
    """
    return start(argv, "cflow run", _run_help, lambda overrides: overrides)


def start(
    argv: Sequence[str],
    command: str,
    describe: Callable[[Path | None], str],
    complete: Callable[[list[str]], list[str]],
) -> int:
    """What ``cflow run`` and ``cflow kernel`` do alike; the exit status.

    Parameters
    ----------
    argv
        Arguments of the command.
    command
        As it is typed.
    describe
        Makes the help, given the folder of the user's own configs.
    complete
        Makes the overrides for Hydra from those of the command line.
    """
    parser = Parser(prog=command, add_help=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-cd", "--config-dir", type=Path)
    parser.add_argument("-c", "--cfg", choices=("job", "hydra", "all"))
    parser.add_argument("-p", "--package")
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--info", nargs="?", const="all", choices=_INFO)
    args = parser.parse_intermixed_args(argv)
    config_dir = None if args.config_dir is None else args.config_dir.expanduser()
    if args.help:
        print(describe(config_dir))
        return 0
    if args.cfg is None and (args.resolve or args.package):
        raise UserError(f"--resolve and --package need --cfg: {command} --cfg job --resolve")
    args.overrides = complete(args.overrides)
    args.multirun |= any(re.fullmatch(r"[+]*hydra\.mode=MULTIRUN", text) for text in args.overrides)
    shows = args.cfg is not None or args.info is not None
    if not shows:
        print("starting: the config, then JAX", flush=True)
    # Hydra takes half a second to load, for which neither help nor the first words must wait.
    from cflow_cli.commands import starting

    if shows:
        starting.show(args, config_dir)
        return 0
    if args.multirun:
        return conclude_sweep(starting.sweep(args.overrides, config_dir))
    return conclude(starting.run(args.overrides, config_dir))


def _run_help(config_dir: Path | None) -> str:
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    defaults = tree.default_choices()
    groups = []
    for group, choices in tree.groups(config_dir).items():
        default = defaults.get(group)
        default = default if isinstance(default, list) else [default]
        shown = ", ".join(f"{choice}*" if choice in default else choice for choice in choices)
        groups.append(entry(group, shown, width))
    values = tree.override_keys({}, config_dir)
    meanings = {key: setting.meaning for key, setting in SETTINGS.items()}
    meanings |= tree.comments_on(_INSIDE) | _ELSEWHERE
    overrides = []
    for key, meaning in meanings.items():
        value = values.get(key)
        now = "" if value is None else f" ({str(value).replace(' ', '')})"
        overrides.append(entry(f"{key}=", meaning + now, width))
    options = [
        entry("-m, --multirun", "run every combination of comma-separated values", width),
        entry("--config-dir DIR", "a folder of your own configs: DIR/model/mine.yaml is model=mine", width),
        entry("--cfg job|hydra|all", "print the config instead of running it; with -m of every run", width),
        entry("--resolve, --package P", "with --cfg: interpolations resolved; only the node P", width),
        entry("--info [WHAT]", f"what Hydra makes of the command: {', '.join(_INFO)}", width),
    ]
    return "\n".join(
        [
            "usage: cflow run [-m] [--config-dir DIR] [--cfg job] [key=value …]",
            "",
            "Train a network, step its flows beside it, and record every step.",
            "",
            "choices (* is the default; group=choice selects, group.key=value sets what is inside):",
            *groups,
            "",
            "overrides:",
            *overrides,
            "",
            "options:",
            *options,
            "",
            _EPILOG.rstrip(),
        ]
    )


def entry(name: str, text: str, width: int) -> str:
    """A line of the help, or several: a word, and what it means."""
    start = 30
    lines = textwrap.wrap(text, max(width - start, 30), break_on_hyphens=False) or [""]
    gap = " " * (start - 2 - len(name)) if len(name) <= start - 4 else "\n" + " " * start
    first = f"  {name}{gap}{lines[0]}"
    return "\n".join([first, *(" " * start + line for line in lines[1:])])


def conclude(result: RunResult | None) -> int:
    """Say how a run ended, and show its summary; the exit status. None is a run that had ended before."""
    if result is None:
        return 0
    if not together.leads():
        return result.exit_code
    if result.status == "failed":
        print(f"error: {result.reason}", file=sys.stderr)
    elif result.status == "interrupted":
        print(f"interrupted: {result.reason}; continue with: cflow resume {result.folder}", file=sys.stderr)
    _print_summary(result.folder)
    print(f"folder: {result.folder}")
    return result.exit_code


def conclude_sweep(result: SweepResult | None) -> int:
    """The same of a sweep; how its runs ended is asked of the runs themselves."""
    if result is None:
        return 0
    _print_summary(result.folder)
    print(f"folder: {result.folder}")
    _print_best(result.folder)
    found = sweeps.cells(result.folder)
    unfinished = [cell for cell in found if cell.status in sweeps.UNFINISHED]
    if unfinished:
        print(
            f"error: {len(unfinished)} of {len(found)} runs did not finish; to continue them: "
            f"{sweeps.resume_command(result.folder)}",
            file=sys.stderr,
        )
    return result.exit_code or (EXIT_FAILED if unfinished else 0)


def _print_best(folder: Path) -> None:
    """The best point that Optuna found, which it leaves in a file beside the runs."""
    path = folder / "optimization_results.yaml"
    found = tree.read_yaml(path) if path.exists() else {}
    if "best_value" not in found:
        return
    if math.isinf(found["best_value"]):
        print("best: none, because no run has a value of its objective")
    else:
        point = " ".join(f"{key}={value}" for key, value in found["best_params"].items())
        print(f"best: {point} with {found['best_value']:.6g}, from {path}")


def _print_summary(folder: Path) -> None:
    try:
        report.main([str(folder)])
    except UserError as error:
        print(f"no summary: {printable(str(error))}", file=sys.stderr)
