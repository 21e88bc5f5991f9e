"""Whether the figures' runs of paper size start: ``python -m benchmarks.papers``.

Every preset ``*_paper`` as the figures use it, with each model, optimizer and set of processes that they give with it
(of widths the largest), at full model and image size; on 40 examples instead of all, and for three steps, with flows
from the second. Prints what each took, and ends with 1 where one did not come to its end with finite numbers. Needs
CIFAR-10 (see the README), and some minutes.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from cflow_cli.figures.experiment import find
from cflow_cli.report.tables import markdown
from cflow_cli.storage import read_run

STEPS = 3
FEW = "40"
# The least that is compiled and computed of a kernel, whose cost grows with the square of the examples.
KERNEL = ("data.n=10", "data.n_test=10", "data.skip=0")
# What tells one program from another; of everything else that a figure varies the last one is taken.
TELLING = re.compile(r"(experiment|model|optimizer|data|processes|model\.depth|[\w.]*bias_correction)=")


def runs() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Sub-command and overrides of each."""
    for command in ("run", "kernel"):
        found: dict[tuple[str, ...], tuple[str, ...]] = {}
        for figure in find([]):
            plan = figure.plan("paper") if command == "run" else figure.kernel_plan("paper")
            for words in plan.values():
                if any(re.match(r"experiment=\w+_paper$", word) for word in words):
                    found[tuple(word for word in words if TELLING.match(word))] = tuple(words)
        for words in found.values():
            yield command, words


def shortened(command: str, words: Sequence[str]) -> list[str]:
    """The same on few examples, and for a few steps."""
    if command == "kernel":
        return [*words, *KERNEL]
    kept = [word for word in words if not word.startswith(("steps=", "data.n=", "warm_start="))]
    # The entries of a matrix are no examples: with fewer nothing is cheaper.
    few = [] if any(word.startswith("experiment=dmf") for word in words) else [f"data.n={FEW}"]
    return [*kept, *few, f"steps={STEPS}", "warm_start=1"]


def complaint(command: str, folder: Path) -> str:
    """What is wrong with a run that says it is done, "" where nothing is."""
    if command == "kernel":
        return "" if any(folder.glob("*.parquet")) else "no table"
    run = read_run(folder)
    processes = run.metrics.groupby("process", observed=True)
    steps = processes.size()
    missing = [name for name in run.manifest["processes"] if not steps.get(name)]
    if missing:
        return f"no step of {', '.join(missing)}"
    last = processes.tail(1)
    return "" if last["loss"].map(pd.notna).all() else "a loss that is not finite"


def tried(command: str, words: Sequence[str], folder: Path) -> tuple[str, float]:
    """How a run ended, and its seconds."""
    began = time.monotonic()
    cflow = str(Path(sys.executable).with_name("cflow"))
    line = [cflow, command, *shortened(command, words), f"hydra.run.dir={folder}"]
    done = subprocess.run(line, capture_output=True, text=True)
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    ended = complaint(command, folder) if done.returncode == 0 else said[-1] if said else "died"
    return ended or "done", time.monotonic() - began


def main() -> int:
    """Try all, or those that are asked for, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="WORD", help="runs in whose line one of these is found")
    chosen = parser.parse_args().only
    rows = []
    with tempfile.TemporaryDirectory() as parent:
        for number, (command, words) in enumerate(runs()):
            line = " ".join(["cflow", command, *words])
            if chosen and not any(word in line for word in chosen):
                continue
            ended, seconds = tried(command, words, Path(parent) / str(number))
            rows.append([line, f"{seconds:.0f}", ended])
            print(f"{seconds:6.0f} s  {ended:6}  {line}", flush=True)
    print()
    print(markdown(["run", "seconds", "ended"], rows))
    return int(any(row[-1] != "done" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
