"""Faults injected into runs, and what they cost: ``make chaos``, or ``python -m benchmarks.chaos --kills 10``.

Two parts, in one table. The first harms files (:mod:`benchmarks.bits`; ``--flips 0`` leaves it out), without JAX. In
the second every fault hits ``cflow run`` as a process of its own, in a folder of its own; the run then goes on with
``cflow resume`` until it is done, and its tables are compared, value by value, with those of a run that nothing
happened to. After every fault each file is held against its digest.

Kills come at random moments; every other one as soon as a file is seen half-written. Kill number n of a kind follows
from the seed, the kind and n. Steps lost are those the run had reported (on its terminal or in its manifest) beyond
the checkpoint it went on from. *Survived* is a run that ended as the undisturbed one; *told*, a request that cannot be
carried out, in one sentence; *lost*, anything else.
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
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from benchmarks import bits
from benchmarks.bits import Outcome
from cflow_cli.runs import resuming
from cflow_cli.storage import checkpoints, faults, read_run

RUN = ["data.n=100", "model.widths=[16]", "kick=1e-3", "checkpoint.every=10"]
KINDS = {
    "gd": ["optimizer=gd", "lr=0.4"],
    "adam": ["optimizer=adam", "lr=0.01"],
    "a schedule": ["optimizer=gd", "lr=0.4", "schedule=cosine"],
    "init.from": ["optimizer=gd", "lr=0.4", "init.from={work}/undisturbed-gd"],
    "a sweep cell": ["optimizer=gd", "lr=0.4", "seed=1"],
}
PROGRAM = [sys.executable, "-c", "import sys; from cflow_cli.cli import main; sys.exit(main())"]


class Chaos:
    """Runs, faults and comparisons in one working folder."""

    def __init__(self, work: Path, steps: int, seed: int) -> None:
        self.work, self.steps, self.seed = work, steps, seed
        self.said = work / "said.txt"
        self.random = random.Random(seed)
        self.wanted: dict[str, list[pd.DataFrame]] = {}

    # --- processes ---

    def start(self, kind: str, folder: Path, said: Path | None = None, **options) -> subprocess.Popen[bytes]:
        """Run a kind into a folder, or continue what is there."""
        sweep = kind == "a sweep cell"
        if (folder / ("sweep.json" if sweep else "manifest.json")).exists():
            arguments = ["resume", str(folder)]
        else:
            chosen = [text.format(work=self.work) for text in KINDS[kind]]
            where = [f"hydra.sweep.dir={folder}", "-m"] if sweep else [f"hydra.run.dir={folder}"]
            arguments = ["run", *RUN, *chosen, f"steps={self.steps}", *where]
        with (said or self.said).open("w") as output:
            return subprocess.Popen(
                [*PROGRAM, *arguments], stdout=output, stderr=subprocess.STDOUT, **options
            )

    def ended(self, process: subprocess.Popen[bytes]) -> str:
        """All it said, once it is over."""
        process.wait()
        return self.said.read_text()

    def tables_of(self, kind: str) -> list[pd.DataFrame]:
        """Tables of the undisturbed run of a kind."""
        if kind not in self.wanted:
            folder = self.work / f"undisturbed-{kind.replace(' ', '-')}"
            process = self.start(kind, folder)
            said = self.ended(process)
            if process.returncode:
                raise SystemExit(f"{folder} did not finish: {said}")
            self.wanted[kind] = tables(run_of(kind, folder))
        return self.wanted[kind]

    def goes_on(self, kind: str, folder: Path) -> tuple[str, str]:
        """Continue until done; survived, or what is wrong; and what was said."""
        process = self.start(kind, folder)
        said = self.ended(process)
        if process.returncode:
            return f"did not go on: {said[-300:]}", said
        return self.compare(kind, folder), said

    def compare(self, kind: str, folder: Path) -> str:
        """Survived, or what is wrong with a run that is done."""
        try:
            for ours, theirs in zip(tables(run_of(kind, folder)), self.tables_of(kind), strict=True):
                pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
        except AssertionError as error:
            return f"other numbers: {str(error)[:200]}"
        return " ".join(faults(run_of(kind, folder))) or "survived"

    def until_step(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the first report: before it the run compiles and has nothing to lose."""
        while process.poll() is None and not re.search(r"^step ", self.said.read_text(), re.MULTILINE):
            time.sleep(0.005)

    # --- faults ---

    def kills(self, kind: str, count: int, first: int = 0) -> Outcome:
        """SIGKILL, over and over in the same folder until the run gets through, then in the next folder."""
        out, lost = Outcome(f"SIGKILL: {kind}"), []
        self.tables_of("gd")
        self.tables_of(kind)
        number, runs = first, 0
        while number < first + count:
            folder, runs = self.work / f"killed-{kind.replace(' ', '-')}-{runs}", runs + 1
            kept: list[tuple[int, str]] = []
            while number < first + count:
                process = self.start(kind, folder)
                reported = self._kill(
                    process, random.Random(f"{self.seed}/{kind}/{number}"), folder, number % 2 == 1
                )
                if reported is None:
                    break
                whole = run_of(kind, folder)
                told = faults(whole) if (whole / "manifest.json").exists() else []
                kept.append((number, " ".join(told)))
                lost.append(lost_steps(whole, reported))
                number += 1
            verdict, _ = self.goes_on(kind, folder)
            for kill, told in kept:
                out.count(told or verdict, "", str(kill))
        out.said = f"steps lost: median {np.median(lost):.0f}, most {max(lost)}" if lost else ""
        return out

    def _kill(
        self, process: subprocess.Popen[bytes], rng: random.Random, folder: Path, in_a_write: bool
    ) -> int | None:
        """Steps it had reported, or None where it was done first."""
        stop = None
        while process.poll() is None:
            if stop is None and re.search(r"^step ", self.said.read_text(), re.MULTILINE):
                stop = time.monotonic() + rng.uniform(0, 2)
            writing = in_a_write and stop is not None and any(folder.rglob(".*.tmp"))
            if writing or (stop is not None and time.monotonic() > stop):
                process.kill()
                return reported(self.ended(process))
            if not in_a_write:
                time.sleep(0.005)
        return None

    def signals(self) -> Outcome:
        """The signals of a terminal and of clusters."""
        out = Outcome("SIGINT, SIGTERM, SIGUSR2")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            folder = self.work / signal.Signals(number).name
            process = self.start("gd", folder)
            self.until_step(process)
            process.send_signal(number)
            said = self.ended(process)
            verdict, _ = self.goes_on("gd", folder)
            if process.returncode != 130:
                verdict = f"status {process.returncode}"
            out.count(verdict, line_with(said, "interrupted"), folder.name)
        return out

    def full_disk(self) -> Outcome:
        """A file that cannot grow: the limit on file sizes stands for the end of the disk."""
        import resource

        out = Outcome("no room on the disk, then room again")
        self.tables_of("gd")
        size = checkpoints.paths(self.work / "undisturbed-gd")[-1].stat().st_size
        for part in (2, 4, 8):
            limit = size // part
            folder = self.work / f"full-{part}"
            process = self.start(
                "gd",
                folder,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),  # noqa: B023
            )
            said = self.ended(process)
            verdict, _ = self.goes_on("gd", folder)
            if process.returncode not in (1, 2) or "Traceback" in said or "Error executing" in said:
                verdict = f"not told in a sentence: {said[-300:]}"
            out.count(verdict, line_with(said, "error"), str(part))
        return out

    def read_only(self) -> Outcome:
        """Folders that may not be written: a run, its continuation, a page and a panel."""
        out = Outcome("a read-only folder")
        self.tables_of("gd")
        folder = self.work / "read-only"
        shutil.copytree(self.work / "undisturbed-gd", folder)
        places = [path for path in [folder, *folder.rglob("*")] if path.is_dir()]
        for place in places:
            place.chmod(0o555)
        # Root may write anywhere, unless it gives that up.
        humble = ["setpriv", "--bounding-set=-dac_override", "--"] if os.geteuid() == 0 else []
        run = ["run", *RUN, *KINDS["gd"], "steps=3"]
        for arguments in (
            [*run, f"hydra.run.dir={folder}/new"],
            [*run, f"hydra.run.dir={folder}/metrics"],
            ["resume", str(folder), f"steps={2 * self.steps}"],
            ["report", str(folder), "--html", str(folder / "report.html")],
            ["plot", str(folder)],
        ):
            done = subprocess.run(
                [*humble, *PROGRAM, *arguments], capture_output=True, text=True, check=False
            )
            said = done.stderr.strip()
            one = said.splitlines()[-1:] and "error: " in said.splitlines()[-1]
            clean = one and not any(word in said for word in ("Traceback", "Error executing", "OSError"))
            out.count("told" if done.returncode == 2 and clean else said[-300:], said, arguments[0])
        for place in places:
            place.chmod(0o755)
        return out

    def two_writers(self) -> Outcome:
        """A second process in the folder of a run that goes on, and a lock that is let go of by a kill."""
        out = Outcome("two writers in one folder")
        folder = self.work / "two"
        process = self.start("gd", folder)
        self.until_step(process)
        process.send_signal(signal.SIGSTOP)  # so that it cannot be done before the other one asks
        second = self.work / "second.txt"
        other = self.start("gd", folder, said=second)
        status, said = other.wait(), second.read_text()
        process.send_signal(signal.SIGCONT)
        told = status == 2 and "being run by another process" in said and "Error executing" not in said
        out.count("told" if told else f"status {status}: {said[-300:]}", line_with(said, "error"), "second")
        self.ended(process)
        out.count(self.compare("gd", folder), "", "first")
        return out

    def moved(self) -> Outcome:
        """A killed run that is copied, and moved; all three go on."""
        out = Outcome("a copied and a moved folder")
        folder = self.work / "stays"
        self._kill_after_checkpoints("gd", folder)
        shutil.copytree(folder, self.work / "copied")
        shutil.copytree(folder, self.work / "to-move")
        (self.work / "to-move").rename(self.work / "moved")
        for name in ("stays", "copied", "moved"):
            out.count(self.goes_on("gd", self.work / name)[0], "", name)
        return out

    def _kill_after_checkpoints(self, kind: str, folder: Path) -> None:
        process = self.start(kind, folder)
        self.until_step(process)
        while len(checkpoints.paths(folder)) < 2 and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        self.ended(process)

    def damages(self) -> Iterator[Outcome]:
        """Files that come to harm while the run is down: the one before is used, or it is made again."""

        def newest_checkpoint(folder: Path) -> Path:
            return checkpoints.paths(folder)[-1]

        def newest_part(folder: Path) -> Path:
            # The newest that is needed: what was written after the checkpoint is computed again, whole or not.
            missing = checkpoints.at_step(folder, None).header["storage"]["rows"]["metrics"]
            found = sorted((folder / "metrics").glob("part-*.parquet"))
            for part in found:
                missing -= pq.read_metadata(part).num_rows
                if missing <= 0:
                    return part
            return found[-1]

        def digit(path: Path, rng: random.Random) -> None:
            path.write_text(path.read_text().replace("lr: 0.4", "lr: 0.5"))

        kinds: dict[str, tuple[Callable[[Path], Path], Callable[[Path, random.Random], None]]] = {
            "one bit of the newest checkpoint flipped": (newest_checkpoint, bits.flip),
            "the newest checkpoint cut short": (newest_checkpoint, bits.cut),
            "one bit of the newest Parquet part flipped": (newest_part, bits.flip),
            "the newest Parquet part cut short": (newest_part, bits.cut),
            "the newest Parquet part removed": (newest_part, bits.remove),
            "a digit of lr changed in config.yaml": (lambda folder: folder / "config.yaml", digit),
            "the manifest cut short": (lambda folder: folder / "manifest.json", bits.cut),
            "the manifest removed": (lambda folder: folder / "manifest.json", bits.remove),
        }
        for number, (fault, (which, harm)) in enumerate(kinds.items()):
            out = Outcome(f"{fault}, then resumed")
            folder = self.work / f"harmed-{number}"
            self._kill_after_checkpoints("gd", folder)
            harm(which(folder), self.random)
            if not (folder / "manifest.json").exists():
                process = subprocess.run(
                    [*PROGRAM, "resume", str(folder)], capture_output=True, text=True, check=False
                )
                verdict, said = self.compare("gd", folder), process.stdout
            else:
                verdict, said = self.goes_on("gd", folder)
            told = [line for line in said.splitlines() if line.startswith("note: ") and str(folder) in line]
            notes = told[0] if told else ""
            out.count(verdict if notes else "nothing was said", notes, "0")
            yield out


def run_of(kind: str, folder: Path) -> Path:
    """The run in the folder of a kind."""
    return folder / "0" if kind == "a sweep cell" else folder


def tables(folder: Path) -> list[pd.DataFrame]:
    """Both tables."""
    run = read_run(folder)
    return [run.metrics, run.eigenvalues]


def line_with(said: str, word: str) -> str:
    """The first line that begins so."""
    return next((line for line in said.splitlines() if line.startswith(word)), "")


def reported(said: str) -> int:
    """The last step a run showed."""
    return max((int(step) for step in re.findall(r"^step (\d+)/", said, re.MULTILINE)), default=0)


def lost_steps(folder: Path, step: int) -> int:
    """Steps a run has to take again."""
    if not (folder / "manifest.json").exists():
        return step
    point = resuming.last_point(folder).checkpoint
    step = max(step, read_run(folder).manifest.get("step") or 0)
    return max(0, step - (0 if point is None else point.step))


def all_outcomes(args: argparse.Namespace, work: Path) -> Iterator[Outcome]:
    """Every fault, in the order of the table."""
    if args.flips:
        yield from bits.outcomes(args.seed, args.flips)
    chaos = Chaos(work, args.steps, args.seed)
    kinds = [args.only] if args.only else list(KINDS)
    for kind in kinds:
        if args.kills:
            yield chaos.kills(kind, -(-args.kills // len(kinds)), args.first)
    if args.only is None:
        yield chaos.signals()
        yield chaos.full_disk()
        yield chaos.read_only()
        yield chaos.two_writers()
        yield chaos.moved()
        yield from chaos.damages()


def main() -> int:
    """Inject the faults and print the table; 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="over all kinds of runs")
    parser.add_argument("--flips", type=int, default=2000, help="in each kind of file; 0 for none")
    parser.add_argument("--steps", type=int, default=600, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=KINDS, help="kills of this kind of run, and no other faults")
    parser.add_argument("--first", type=int, default=0, help="number of the first kill of each kind")
    parser.add_argument("--json", type=Path, help="file for the outcomes")
    args = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    work = Path(tempfile.mkdtemp(prefix="cflow-chaos-"))
    found = []
    try:
        for out in all_outcomes(args, work):
            found.append(out)
            print(f"{out.fault}: {out.tried}", *out.lost[:3], sep="\n  ", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(work)
    print(bits.table(found), end="")
    for out in found:
        if out.said:
            print(f"\n{out.fault}:\n  {out.said.replace(str(work), 'RUNS')}")
    if args.json:
        args.json.write_text(json.dumps([asdict(out) for out in found], indent=2))
    return 0 if not any(out.lost for out in found) else 1


if __name__ == "__main__":
    sys.exit(main())
