"""The command ``cflow``: sub-commands only.

Help and completion import neither JAX nor Hydra; what a sub-command needs is imported when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from . import __version__
from . import config as configs
from .commandline import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER_ERROR, Parser
from .errors import UserError, wants_traceback

_RUN_EPILOG = """\
examples:
  cflow run
  cflow run optimizer=adam lr=0.01
  cflow run optimizer=rmsprop optimizer.decay=0.95 data.n=400 'model.widths=[64,64]' dtype=float64
  cflow run lr=0.2 schedule=cosine steps=1000
  cflow run 'processes=[discrete,central]' processes.central.substeps=4
  cflow run -m lr=0.02,0.05,0.1 seed=0,1,2
  cflow run -m launcher=slurm launcher.partition=gpu optimizer=gd,rmsprop 'seed=range(5)'
  cflow run -m experiment=rates
  cflow run --config-dir my_configs model=mine
"""

_COMMON = {
    "lr": "learning rate, or the peak of its schedule; each optimizer has its own default",
    "steps": "optimizer steps",
    "seed": "of the initial weights and everything else random",
    "dtype": "float32 or float64",
    "device": "auto, cpu, gpu, tpu, or one of several: cuda:1",
    "warm_start": "optimizer steps before the flows branch off; null for what the optimizer needs",
    "eval_every": "steps between evaluations of accuracy and test loss",
    "coordinates": "weights whose squared gradients are recorded: how many, or their indices",
    "outputs": "training examples whose network outputs are recorded, the first so many",
    "devices": "devices that share the data, or all",
    "checkpoint.every": "steps (100) or time (30s, 5min, 2h) between checkpoints; null for none",
    "checkpoint.keep": "newest checkpoints to keep; 0 for all",
    "init.from": "a run to start from: init.process=central init.step=100 say which state of it",
    "kick": "norm of a random kick to the discrete weights at each step",
    "name": "first part of the run folder's name",
    "data.n": "training examples",
    "model.widths": "units of each hidden layer, for model=mlp",
    "eigs.every": "steps between measurements of the discrete run's eigenvalues",
    "eigs.max_tracked": "most eigenvalues tracked",
    "processes.central.substeps": "steps of the central flow per optimizer step",
    "processes.central.thirds_every": "steps that third derivatives serve; 2 makes a step a quarter cheaper",
    "hydra.run.dir": "the run folder itself",
    "hydra.sweep.dir": "the folder of a sweep",
    "launcher.partition": "of launcher=slurm; --cfg hydra --package hydra.launcher launcher=slurm shows all",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments after ``cflow``; those of this process by default.

    Returns
    -------
    int
        Exit status: 0; 1 for a run that failed; 2 for a request that cannot be carried out; 130 when
        interrupted.
    """
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        if wants_traceback():
            raise
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has left; nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:
        if wants_traceback():
            raise
        text = " ".join(str(error).split())[:300]
        print(f"error: {type(error).__name__}: {text} (CFLOW_TRACEBACK=1 shows where)", file=sys.stderr)
        return EXIT_FAILED


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"cflow {__version__}")
        return 0
    if argv[0] in _COMMANDS:
        return _COMMANDS[argv[0]][0](argv[1:])
    if "=" in argv[0]:
        raise UserError(f"{argv[0]!r} is an override, which needs a sub-command: cflow run {' '.join(argv)}")
    hint = configs.did_you_mean(argv[0], _COMMANDS)
    raise UserError(f"unknown sub-command {argv[0]!r}{hint}; there are {', '.join(_COMMANDS)}")


def _help() -> str:
    commands = "\n".join(f"  {name:<12}{summary}" for name, (_, summary) in _COMMANDS.items())
    return (
        "usage: cflow COMMAND …\n\n"
        "Run an optimizer and the differential equation of its time average side by side.\n\n"
        f"commands:\n{commands}\n\n"
        "cflow COMMAND --help says more; cflow run is a good start.\n"
        'Completion: eval "$(cflow completion bash)", or zsh, or cflow completion fish | source.'
    )


def _run(argv: list[str]) -> int:
    parser = Parser(prog="cflow run", add_help=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-cd", "--config-dir", type=Path)
    parser.add_argument("-c", "--cfg", choices=("job", "hydra", "all"))
    parser.add_argument("-p", "--package")
    parser.add_argument("--resolve", action="store_true")
    args = parser.parse_intermixed_args(argv)
    config_dir = None if args.config_dir is None else args.config_dir.expanduser()
    if args.help:
        print(_run_help(config_dir))
        return 0
    if args.cfg is None and (args.resolve or args.package):
        raise UserError("--resolve and --package need --cfg: cflow run --cfg job --resolve")
    if args.cfg is not None:
        if args.multirun:
            raise UserError("--cfg shows the config of one run; leave out -m and give one value of each key")
        return _show_config(args, config_dir)
    from .run import launch

    return launch(args.overrides, config_dir=config_dir, multirun=args.multirun)


def _show_config(args: argparse.Namespace, config_dir: Path | None) -> int:
    with configs.hydra_session(config_dir) as hydra:
        configs.composed(hydra, args.overrides, config_dir)
        hydra.show_cfg(
            config_name=configs.PRIMARY,
            overrides=configs.for_hydra(args.overrides),
            cfg_type=args.cfg,
            package=args.package,
            resolve=args.resolve,
        )
    return 0


def _run_help(config_dir: Path | None) -> str:
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    defaults = configs.default_choices()
    groups = []
    for group, choices in configs.groups(config_dir).items():
        default = defaults.get(group)
        default = default if isinstance(default, list) else [default]
        shown = ", ".join(f"{choice}*" if choice in default else choice for choice in choices)
        groups.append(_entry(group, shown, width))
    values = configs.override_keys({}, config_dir)
    overrides = []
    for key, meaning in _COMMON.items():
        value = values.get(key)
        now = "" if value is None else f" ({str(value).replace(' ', '')})"
        overrides.append(_entry(f"{key}=", meaning + now, width))
    options = [
        _entry("-m, --multirun", "run every combination of comma-separated values", width),
        _entry("--config-dir DIR", "a folder of your own configs: DIR/model/mine.yaml is model=mine", width),
        _entry("--cfg job|hydra|all", "print the config instead of running it", width),
        _entry("--resolve, --package P", "with --cfg: interpolations resolved; only the node P", width),
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
            _RUN_EPILOG.rstrip(),
        ]
    )


def _entry(name: str, text: str, width: int) -> str:
    start = 30
    lines = textwrap.wrap(text, max(width - start, 30), break_on_hyphens=False) or [""]
    gap = " " * (start - 2 - len(name)) if len(name) <= start - 4 else "\n" + " " * start
    first = f"  {name}{gap}{lines[0]}"
    return "\n".join([first, *(" " * start + line for line in lines[1:])])


def _resume(argv: list[str]) -> int:
    from . import resuming, sweeps

    parser = Parser(
        prog="cflow resume",
        description="Go on with a run from its newest checkpoint, or with every unfinished run of a sweep.",
        epilog="examples: cflow resume outputs/…; cflow resume outputs/… steps=1000; "
        "cflow resume outputs/… data.microbatch=100 device=cpu",
    )
    parser.add_argument("folder", type=Path, help="folder of a run or of a sweep")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help=f"of {', '.join(resuming.CHANGEABLE)}"
    )
    args = parser.parse_args(argv)
    folder = args.folder.expanduser()
    return (sweeps if sweeps.is_sweep(folder) else resuming).resume(folder, args.overrides)


def _of(module: str) -> Callable[[list[str]], int]:
    """The ``main`` of a module, which is imported when it is called."""

    def command(argv: list[str]) -> int:
        return importlib.import_module(module).main(argv)

    return command


def _data(argv: list[str]) -> int:
    from .datasets.fetch import main as fetch

    if argv[:1] != ["fetch"]:
        if argv and argv[0] not in ("-h", "--help"):
            raise UserError(
                f"unknown action {argv[0]!r} of cflow data; there is fetch: cflow data fetch cifar10"
            )
        argv = ["fetch", "--help"]
    return fetch(argv[1:])


def _optimizers(argv: list[str]) -> int:
    parser = Parser(
        prog="cflow optimizers",
        description="List the optimizers: their state, their edge of stability, and whether they have flows.",
        epilog="examples: cflow optimizers; cflow optimizers adam nadam optimizer.b1=0.95; "
        "cflow optimizers --format md",
    )
    parser.add_argument(
        "words",
        metavar="NAME|key=value",
        nargs="*",
        help="optimizers (all by default), and overrides for them",
    )
    parser.add_argument("--format", choices=("table", "md", "csv"), default="table", help="default: table")
    parser.add_argument("-cd", "--config-dir", type=Path, help="a folder of your own configs")
    args = parser.parse_intermixed_args(argv)
    if "jax" not in sys.modules:
        # Vectors of four numbers: a GPU's runtime would take longer to start than all of it.
        os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    from .run import compilation_cache_dir

    jax.config.update("jax_enable_x64", True)
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(compilation_cache_dir()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    from .optimizers import listing

    config_dir = None if args.config_dir is None else args.config_dir.expanduser()
    found = listing.rows(args.words, config_dir)
    if args.format == "table":
        listing.print_table(found)
    else:
        print(listing.render(found, args.format), end="")
    return 0


def _completion(argv: list[str]) -> int:
    from . import completion

    if argv[:1] == ["query"]:
        print("\n".join(completion.complete(" ".join(argv[1:]), list(_COMMANDS))))
        return 0
    parser = Parser(
        prog="cflow completion",
        description="Print a script that makes a shell complete sub-commands, choices and override keys.",
        epilog='bash: eval "$(cflow completion bash)" in ~/.bashrc; zsh: alike in ~/.zshrc; '
        "fish: cflow completion fish | source",
    )
    parser.add_argument("shell", choices=completion.SHELLS)
    print(completion.script(parser.parse_args(argv).shell), end="")
    return 0


_COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "run": (_run, "train a network and step its flows beside it; -m for sweeps"),
    "resume": (_resume, "go on with an interrupted run or sweep"),
    "list": (
        _of("cflow_cli.listing"),
        "runs and their status, progress, age and time left, also while they run",
    ),
    "report": (_of("cflow_cli.report"), "summarise runs and sweeps as a table"),
    "plot": (_of("cflow_cli.report.plot"), "draw the standard panel of a run"),
    "figures": (
        _of("cflow_cli.figures.command"),
        "make figures of the paper again and check what they claim",
    ),
    "compare": (_of("cflow_cli.report.compare"), "two runs side by side, and where they part"),
    "data": (_data, "download a data set: cflow data fetch cifar10"),
    "optimizers": (_optimizers, "list the optimizers: state, edge of stability, whether they have flows"),
    "completion": (_completion, "print a script for completion in bash, zsh or fish"),
}
