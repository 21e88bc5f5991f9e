"""Files of runs and sweeps that come to harm, and what is told of it: ``python -m benchmarks.bits --flips 2000``.

No JAX and no optimizer: the runs are made of random numbers, so that one flip takes milliseconds. Each fault hits a
fresh copy of a folder with a run and a sweep of one. Then everything that reads them does so: ``cflow list``,
``cflow report``, the tables, ``cflow verify``, and what ``cflow resume`` goes on from. A fault is *survived* if all of
them say what they say of the undisturbed folder, or go on from an older state that was; *told* if the damage is
named and the others are read all the same; *lost* if anything differs without a word, or if anything else is not
told because of it.

Fault number n of a kind follows from the seed, the kind and n: ``--only manifest --first 17 --flips 1`` has it again.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd

from cflow_cli.errors import UserError
from cflow_cli.records import EIGENVALUES, METRICS
from cflow_cli.report import gathering, listing
from cflow_cli.report.tables import markdown
from cflow_cli.runs import resuming, sweeps
from cflow_cli.storage import RunWriter, checkpoints, faults, manifests, read_run

STEPS = 24
# Asking git at each continuation would take most of the time.
_environment = functools.cache(manifests.environment)
CONFIG = f"""\
lr: 0.25
steps: {STEPS}
seed: 3
kick: 0.001
optimizer: {{_target_: optax.sgd, learning_rate: 0.25}}
model: {{_target_: cflow_cli.models.mlp.MLP, widths: [32, 32]}}
"""


@dataclass
class Outcome:
    """What one kind of fault did.

    Parameters
    ----------
    fault
        In words.
    tried, survived, told
        How often.
    lost
        Which of them did harm without a word, and what.
    said
        One of the sentences.
    """

    fault: str
    tried: int = 0
    survived: int = 0
    told: int = 0
    lost: list[str] = field(default_factory=list)
    said: str = ""

    def count(self, verdict: str, said: str, name: str) -> None:
        """Enter one fault."""
        self.tried += 1
        self.survived += verdict == "survived"
        self.told += verdict == "told"
        if verdict not in ("survived", "told"):
            self.lost.append(f"{name}: {verdict}")
        self.said = self.said or said


def table(outcomes: list[Outcome]) -> str:
    """The outcomes as Markdown."""
    headings = ["fault", "tried", "survived", "told", "lost"]
    return markdown(headings, [[o.fault, o.tried, o.survived, o.told, len(o.lost)] for o in outcomes])


# --- the folder ------------------------------------------------------------------------------------


def make_run(folder: Path, seed: int, status: str = "done") -> None:
    """A run of random numbers: three parts of each table, two checkpoints."""
    rng = np.random.default_rng(seed)
    writer = RunWriter(folder, flush_seconds=3600)
    writer.start(
        {"seed": 3, "steps": STEPS, "lr": 0.25, "choices": {"optimizer": "gd"}, "dtype": "float64"}, CONFIG
    )
    for first in range(0, STEPS, STEPS // 3):
        steps = np.arange(first, first + STEPS // 3)
        columns: dict[str, Any] = {}
        for column in METRICS:
            text = column.type == "string"
            columns[column.name] = (
                np.full(len(steps), "ok", object) if text else rng.normal(size=len(steps)) ** 2
            )
        writer.write(
            columns | {"step": steps, "process": np.full(len(steps), "discrete", object)},
            {
                c.name: np.full(len(steps), "discrete", object) if c.type == "string" else steps
                for c in EIGENVALUES
            },
        )
        header = {"step": int(steps[-1]) + 1, "processes": {}, "storage": writer.position()}
        arrays = {f"discrete.{name}": rng.normal(size=40) for name in ("weights", "before")}
        checkpoints.save(folder, header, arrays, keep=2)
    writer.finish(status)


def make_tree(folder: Path) -> None:
    """A run, and a sweep of another one."""
    make_run(folder / "run", 0)
    make_run(folder / "sweep" / "0", 1)
    jobs = [{"number": 0, "overrides": ["seed=0", "steps=24"], "folder": "0"}]
    launch = {"started": "2026-01-01T00:00:00+00:00", "host": "node1", "pid": 7, "launcher": "basic"}
    launch |= {"jobs": [0], "job_ids": {}, "cancel": None, "ended": "2026-01-01T01:00:00+00:00"}
    about = {
        "format": 1,
        "host": "node1",
        "working_directory": "/",
        "config_dir": None,
        "overrides": ["seed=0"],
    }
    sweeps.write(folder / "sweep", {**about, "axes": {"seed": ["0"]}, "jobs": jobs, "launches": [launch]})


# --- what is read of it ----------------------------------------------------------------------------

# What a cell of a sweep is called is the sweep's to say.
_CHANGING = ("age_seconds", "left_seconds", "note", "run", "what")
_UNREADABLE = ("unreadable", "failed", "missing")


def look(folder: Path) -> dict[str, Any]:
    """All that is told of a folder, by what tells it and of which run."""
    told: dict[str, Any] = {}
    for row in listing.list_runs([folder]):
        name = str(Path(row.run).relative_to(folder))
        about = {key: value for key, value in vars(row).items() if key not in _CHANGING}
        told["list", name] = Damage(row.note) if row.status in _UNREADABLE else about
    gathered = gathering.gather([folder])
    for summary in gathered.everything:
        name = str(summary.folder.relative_to(folder))
        unreadable = summary.values["status"] == "unreadable"
        values = {**summary.values, **summary.config}
        told["report", name] = Damage(" ".join(summary.notes)) if unreadable else repr(values)
    told["report", "sweep"] = Damage(" ".join(gathered.faults)) if gathered.faults else gathered.swept
    for name in ("run", "sweep/0"):
        told["tables", name] = _or_damage(lambda: tables(folder / name))  # noqa: B023
        told["verify", name] = Damage(" ".join(found)) if (found := faults(folder / name)) else []
    told["resume", "run"] = _or_damage(lambda: going_on(folder / "run"))
    return told


class Damage(str):
    """A sentence on damage."""


class Noted(tuple):
    """A state, and the sentences on how it was found."""


def _or_damage(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except UserError as error:
        return Damage(error)


def tables(folder: Path) -> list[list[Any]]:
    """Both tables of a run, to the bit."""
    run = read_run(folder)
    return [frame.to_csv() for frame in (run.metrics, run.eigenvalues)]


def going_on(folder: Path) -> Any:
    """Config, checkpoint and rows from which a run would be continued, with what is said."""
    with contextlib.redirect_stdout(io.StringIO()), mock.patch.object(manifests, "environment", _environment):
        notes = resuming.mend(folder)
        point = resuming.last_point(folder)
        run = read_run(folder)
        if point.checkpoint is None:
            return Damage(" ".join([*notes, *point.notes]))
        held = {name: array.tolist() for name, array in point.checkpoint.arrays.items()}
        writer = RunWriter(folder)
        writer.resume(point.checkpoint.header["storage"], {}, None)
    rows = pd.concat([read_run(folder).metrics]).to_csv()
    return Noted(((run.config, point.checkpoint.step, held, rows), [*notes, *point.notes]))


def judge(
    found: dict[str, Any], wanted: dict[str, Any], states: dict[int, Any], harmed: str
) -> tuple[str, str]:
    """Survived, told, or what is wrong; and what was said.

    Parameters
    ----------
    found, wanted
        From :func:`look`, of the harmed folder and of the undisturbed one.
    states
        What the harmed run was at each checkpoint.
    harmed
        Its name; of other runs nothing may differ.
    """
    said = ""
    for key, value in wanted.items():
        got = found.get(key)
        if isinstance(got, Noted):
            state, notes = got
            if state != value[0] and (key[1] != harmed or state != states[state[1]] or not notes):
                return f"{key} goes on from another state", said
            said = said or " ".join(notes)
        elif isinstance(got, Damage):
            if not got or (key[1] != harmed and not key[1].startswith(f"{harmed}/")):
                return f"{key} says {got!r}", said
            said = said or str(got)
        elif got != value:
            return f"{key} differs", said
    return ("told" if said else "survived"), said


# --- faults ----------------------------------------------------------------------------------------


def flip(path: Path, rng: random.Random) -> None:
    """One bit."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path: Path, rng: random.Random) -> None:
    """The end is gone."""
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def remove(path: Path, rng: random.Random) -> None:
    """The file is gone."""
    path.unlink()


def retype(path: Path, rng: random.Random) -> None:
    """A field of a JSON file, at any depth, holds a value of another type; by hand, so without a digest."""
    content = json.loads(path.read_text())
    content.pop("sha256")
    places = list(_places(content))
    holder, key = rng.choice(places)
    others = [0, -1, 1e300, "", "x", True, [], [1], {}, {"a": 1}, [{}], {"a": {"b": []}}]
    holder[key] = rng.choice([value for value in others if type(value) is not type(holder[key])])
    path.write_text(json.dumps(content))


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    pairs = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content)
        if isinstance(content, list)
        else ()
    )
    for key, value in pairs:
        yield content, key
        yield from _places(value)


FILES: dict[str, tuple[str, str]] = {
    "parquet": ("run", "*/part-*.parquet"),
    "checkpoint": ("run", "checkpoints/step-*.npz"),
    "config": ("run", "config.yaml"),
    "manifest": ("run", "manifest.json"),
    "sweep": ("sweep", "sweep.json"),
}
# Without a digest the file is taken at its word, so what it says of its own run is no matter here; of others it is.
BY_HAND = "a field of another type, by hand"
HARMS: dict[str, Callable[[Path, random.Random], None]] = {
    "a bit flipped": flip,
    "cut short": cut,
    "removed": remove,
    BY_HAND: retype,
}


class Bits:
    """A folder of files to be harmed, and what is told of it undisturbed.

    Parameters
    ----------
    work
        An empty folder.
    seed
        Of all faults.
    """

    def __init__(self, work: Path, seed: int) -> None:
        self._whole, self._copy, self._seed = work / "whole", work / "copy", seed
        make_tree(self._whole)
        shutil.copytree(self._whole, self._copy)
        self._wanted = look(self._copy)
        self._states = self._find_states()

    def _find_states(self) -> dict[int, Any]:
        """What a run was at each of its checkpoints: newest first, each removed to see the one before."""
        run, found = self._copy / "run", {}
        for path in reversed(checkpoints.paths(run)):
            state = going_on(run)[0]
            found[state[1]] = state
            path.unlink()
        return found

    def inflict(self, kind: str, harm: str, first: int, count: int) -> Outcome:
        """Harm files of one kind in one way.

        Parameters
        ----------
        kind, harm
            Keys of :data:`FILES` and :data:`HARMS`.
        first, count
            Numbers of the faults.
        """
        out = Outcome(f"{kind}: {harm}")
        harmed, pattern = FILES[kind]
        about_others = {
            key: value for key, value in self._wanted.items() if key[1].partition("/")[0] != harmed
        }
        wanted = about_others if harm == BY_HAND else self._wanted
        for number in range(first, first + count):
            rng = random.Random(f"{self._seed}/{kind}/{harm}/{number}")
            shutil.rmtree(self._copy)
            shutil.copytree(self._whole, self._copy)
            HARMS[harm](rng.choice(sorted((self._copy / harmed).glob(pattern))), rng)
            try:
                verdict, said = judge(look(self._copy), wanted, self._states, harmed)
            except Exception as error:
                verdict, said = f"ends in {type(error).__name__}: {error}", ""
            out.count(verdict, said.replace(str(self._copy), "RUNS"), str(number))
        return out


def outcomes(seed: int, flips: int, only: str | None = None, first: int = 0) -> Iterator[Outcome]:
    """Every kind of file and harm; other harms are fewer than flips, for there are not so many of them."""
    # Without sweep.json a folder is no sweep, and a run may have any number of checkpoints.
    known = {BY_HAND: ("manifest", "sweep"), "removed": ("parquet", "config", "manifest")}
    with tempfile.TemporaryDirectory(prefix="cflow-bits-") as work:
        bits = Bits(Path(work), seed)
        for kind in FILES:
            for harm in HARMS:
                if only in (None, kind) and kind in known.get(harm, FILES):
                    fewer = {"removed": 40, "cut short": 4, BY_HAND: 4}.get(harm, 1)
                    yield bits.inflict(kind, harm, first, -(-flips // fewer))


def main() -> int:
    """Harm files and print the table; 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=2000, help="in each kind of file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=FILES, help="one kind of file")
    parser.add_argument("--first", type=int, default=0, help="number of the first fault")
    args = parser.parse_args()
    found = []
    for out in outcomes(args.seed, args.flips, args.only, args.first):
        print(out.fault, out.tried, out.survived, out.told, *out.lost[:5], flush=True, file=sys.stderr)
        found.append(out)
    print(table(found), end="")
    for out in found:
        if out.said:
            print(f"\n{out.fault}:\n  {out.said}")
    return 0 if not any(out.lost for out in found) else 1


if __name__ == "__main__":
    sys.exit(main())
