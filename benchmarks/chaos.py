"""Faults injected into real runs, and what they cost: ``make chaos``, or ``python -m benchmarks.chaos --kills 10``.

Every fault hits ``cflow run`` as a process of its own, in a folder of its own; the run then goes on with
``cflow resume`` until it is done, and its tables are compared, value by value, with those of a run that nothing
happened to. After every fault each file that has its final name is read back.

Kills come at random moments; every other one as soon as a file is seen half-written. Steps lost are those the run
had reported (on its terminal or in its manifest) beyond the checkpoint it went on from.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from cflow_cli.report.tables import markdown
from cflow_cli.runs import resuming
from cflow_cli.storage import checkpoints, read_run

RUN = ["data.n=100", "model.widths=[16]", "lr=0.4", "kick=1e-3", "checkpoint.every=10"]
PROGRAM = [sys.executable, "-c", "import sys; from cflow_cli.cli import main; sys.exit(main())"]


@dataclass
class Outcome:
    """What one kind of fault did.

    Parameters
    ----------
    fault
        In words.
    injected
        How often.
    same
        Runs that ended with the tables of the undisturbed one, of how many.
    lost
        Steps lost by each.
    corrupted
        Files under their final names that could not be read.
    said
        One of the sentences shown.
    """

    fault: str
    injected: int = 0
    same: int = 0
    runs: int = 0
    lost: list[int] = field(default_factory=list)
    corrupted: int = 0
    said: str = ""


class Chaos:
    """Runs, faults and comparisons in one working folder."""

    def __init__(self, work: Path, steps: int, seed: int) -> None:
        self.work, self.steps = work, steps
        self.said = work / "said.txt"
        self.random = random.Random(seed)
        self.wanted = self._tables(self._finished(work / "undisturbed"))

    # --- processes ---

    def _start(self, folder: Path, **options) -> subprocess.Popen[bytes]:
        resume = (folder / "manifest.json").exists()
        arguments = (
            ["resume", str(folder)]
            if resume
            else ["run", *RUN, f"steps={self.steps}", f"hydra.run.dir={folder}"]
        )
        with self.said.open("w") as output:
            return subprocess.Popen(
                [*PROGRAM, *arguments], stdout=output, stderr=subprocess.STDOUT, **options
            )

    def _ended(self, process: subprocess.Popen[bytes]) -> str:
        """All it said, once it is over."""
        process.wait()
        return self.said.read_text()

    def _finished(self, folder: Path) -> Path:
        process = self._start(folder)
        said = self._ended(process)
        if process.returncode:
            raise SystemExit(f"{folder} did not finish: {said}")
        return folder

    def _tables(self, folder: Path) -> list[pd.DataFrame]:
        run = read_run(folder)
        return [run.metrics, run.eigenvalues]

    def _is_same(self, folder: Path) -> bool:
        try:
            for ours, theirs in zip(self._tables(folder), self.wanted, strict=True):
                pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
        except AssertionError:
            return False
        return True

    # --- faults ---

    def kills(self, count: int) -> Outcome:
        """SIGKILL, over and over in the same folder until the run gets through, then in the next folder."""
        out = Outcome("SIGKILL at a random moment, every other one in the middle of a write")
        runs = 0
        while out.injected < count:
            folder, runs = self.work / f"killed-{runs}", runs + 1
            while out.injected < count:
                process = self._start(folder)
                reported = self._kill(process, folder, in_a_write=out.injected % 2 == 1)
                if reported is None:
                    break
                out.injected += 1
                out.corrupted += corrupted(folder)
                out.lost.append(lost(folder, reported))
            self._compare(out, folder)
        return out

    def _kill(self, process: subprocess.Popen[bytes], folder: Path, in_a_write: bool) -> int | None:
        """Steps it had reported, or None where it was done first."""
        stop = None
        while process.poll() is None:
            # The clock starts with the first report: before it the run compiles and has nothing to lose.
            if stop is None and re.search(r"^step ", self.said.read_text(), re.MULTILINE):
                stop = time.monotonic() + self.random.uniform(0, 2)
            writing = in_a_write and stop is not None and any(folder.rglob(".*.tmp"))
            if writing or (stop is not None and time.monotonic() > stop):
                process.kill()
                return reported(self._ended(process))
            if not in_a_write:
                time.sleep(0.005)
        return None

    def signals(self) -> Outcome:
        """The signals of a terminal and of clusters."""
        out = Outcome("SIGINT, SIGTERM, SIGUSR2")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            folder = self.work / signal.Signals(number).name
            process = self._start(folder)
            self._until_step(process)
            process.send_signal(number)
            said = self._ended(process)
            out.injected += 1
            if process.returncode != 130 or read_run(folder).status != "interrupted":
                raise SystemExit(f"{number!r} was not answered with status 130: {said}")
            out.said = next(line for line in said.splitlines() if line.startswith("interrupted"))
            out.lost.append(lost(folder, reported(said)))
            out.corrupted += corrupted(folder)
            self._compare(out, folder)
        return out

    def _until_step(self, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None and not re.search(r"^step ", self.said.read_text(), re.MULTILINE):
            time.sleep(0.005)

    def full_disk(self) -> Outcome:
        """A file that cannot grow: the limit on file sizes stands for the end of the disk."""
        import resource

        out = Outcome("no room for a checkpoint")
        folder = self.work / "full"
        size = checkpoints.paths(self.work / "undisturbed")[-1].stat().st_size
        process = self._start(
            folder, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
        )
        said = self._ended(process)
        out.injected += 1
        if process.returncode != 1 or "Traceback" in said:
            raise SystemExit(f"a full disk was not answered in a sentence: {said}")
        out.said = next(line for line in said.splitlines() if line.startswith("error"))
        out.lost.append(lost(folder, reported(said)))
        out.corrupted += corrupted(folder)
        self._compare(out, folder)
        return out

    def damages(self) -> Iterator[Outcome]:
        """Files that come to harm while the run is down: the one before is used."""

        def flipped(path: Path) -> None:
            content = bytearray(path.read_bytes())
            content[self.random.randrange(len(content))] ^= 1
            path.write_bytes(content)

        def cut(path: Path) -> None:
            path.write_bytes(path.read_bytes()[: self.random.randrange(path.stat().st_size)])

        def newest_part(folder: Path) -> Path:
            return sorted((folder / "metrics").glob("part-*.parquet"))[-1]

        kinds: dict[str, tuple[Callable[[Path], Path], Callable[[Path], None]]] = {
            "one bit of the newest checkpoint flipped": (lambda f: checkpoints.paths(f)[-1], flipped),
            "the newest checkpoint cut short": (lambda f: checkpoints.paths(f)[-1], cut),
            "the newest Parquet part cut short": (newest_part, cut),
            "the newest Parquet part removed": (newest_part, Path.unlink),
        }
        for number, (fault, (which, harm)) in enumerate(kinds.items()):
            out = Outcome(fault)
            folder = self.work / f"harmed-{number}"
            process = self._start(folder)
            self._until_step(process)
            while len(checkpoints.paths(folder)) < 2 and process.poll() is None:
                time.sleep(0.01)
            process.kill()
            said = self._ended(process)
            harm(which(folder))
            out.injected += 1
            out.lost.append(lost(folder, reported(said)))
            self._compare(out, folder, say=True)
            yield out

    def _compare(self, out: Outcome, folder: Path, say: bool = False) -> None:
        process = self._start(folder)
        said = self._ended(process)
        out.runs += 1
        out.same += process.returncode == 0 and self._is_same(folder)
        out.corrupted += corrupted(folder)
        if say:
            out.said = next((line for line in said.splitlines() if "damaged" in line), "")


def reported(said: str) -> int:
    """The last step a run showed."""
    return max((int(step) for step in re.findall(r"^step (\d+)/", said, re.MULTILINE)), default=0)


def lost(folder: Path, step: int) -> int:
    """Steps a run has to take again."""
    if not (folder / "manifest.json").exists():
        return step
    point = resuming.last_point(folder).checkpoint
    step = max(step, read_run(folder).manifest.get("step") or 0)
    return max(0, step - (0 if point is None else point.step))


def corrupted(folder: Path) -> int:
    """Files of a run folder that have their final name and cannot be read."""
    readers: dict[str, Callable[[Path], object]] = {
        ".parquet": pq.read_table,
        ".json": lambda path: json.loads(path.read_text()),
        ".npz": checkpoints.load,
    }
    bad = 0
    for path in folder.rglob("[!.]*.*"):
        try:
            readers.get(path.suffix, lambda _: None)(path)
        except Exception:
            bad += 1
    return bad


def table(outcomes: list[Outcome]) -> str:
    """The outcomes as Markdown."""
    headings = [
        "fault",
        "injected",
        "tables as undisturbed",
        "steps lost, median and most",
        "corrupted files",
    ]
    rows = [
        [
            out.fault,
            out.injected,
            f"{out.same} of {out.runs}",
            f"{np.median(out.lost):.0f}, {max(out.lost)}",
            out.corrupted,
        ]
        for out in outcomes
    ]
    return markdown(headings, rows)


def main() -> int:
    """Inject the faults and print the table; 1 where a run was not the same or a file was corrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=600, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the outcomes")
    args = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    work = Path(tempfile.mkdtemp(prefix="cflow-chaos-"))
    try:
        chaos = Chaos(work, args.steps, args.seed)
        outcomes = [chaos.kills(args.kills), chaos.signals(), chaos.full_disk(), *chaos.damages()]
    finally:
        shutil.rmtree(work)
    print(table(outcomes), end="")
    for out in outcomes:
        if out.said:
            print(f"\n{out.fault}:\n  {out.said.replace(str(work), 'RUNS')}")
    if args.json:
        args.json.write_text(json.dumps([asdict(out) for out in outcomes], indent=2))
    return 0 if all(out.same == out.runs and not out.corrupted for out in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
