"""What ``cflow kernel`` does: the kernels of a network between all its data, and what they say of training.

Like a run it is prepared, while nothing is on disk, and then executed in a folder. What it goes through are pairs of
inputs, in blocks of about two seconds; where it is interrupted, what has been computed stays, to go on from there.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf

from cflow_cli import clock
from cflow_cli.errors import UserError, one_sentence, wants_traceback
from cflow_cli.kernels.empirical import tangent_kernel
from cflow_cli.kernels.recursion import InfiniteKernel
from cflow_cli.kernels.regression import regress
from cflow_cli.losses import MSE
from cflow_cli.runs import assembling, devices, kernel_preparing, progress
from cflow_cli.runs.interrupts import Interrupts
from cflow_cli.runs.kernel_preparing import PreparedKernel
from cflow_cli.runs.run import (
    RunResult,
    describe_command,
    describe_data,
    describe_failure,
)
from cflow_cli.storage import digests, files, kernels, manifests

# What a block of pairs is to take, at the cost of one number of a pair and layer.
_BLOCK_SECONDS, _NUMBER_SECONDS = 2.0, 2e-8
_KINDS = ("nngp", "ntk")


@dataclass(frozen=True)
class KernelJob:
    """Kernels that are ready to be computed.

    Parameters
    ----------
    prepared
        Which.
    """

    prepared: PreparedKernel

    def execute(self, folder: Path) -> RunResult:
        """Compute the kernels into a folder; whatever happens, its manifest says how it ended.

        Raises
        ------
        UserError
            If the folder cannot be written or another process is at work in it.
        """
        with files.lock(folder), jax.default_device(self.prepared.device[0]):
            return _Execution(self.prepared, folder).run()


def prepare(cfg: DictConfig, choices: dict[str, str] | None = None, folder: Path | None = None) -> KernelJob:
    """Build everything that is needed, short of the folder; see :func:`cflow_cli.runs.run.prepare`.

    Raises
    ------
    UserError
        One sentence on what cannot be done.
    """
    return KernelJob(kernel_preparing.prepare(cfg, choices, folder))


# --- pairs ----------------------------------------------------------------------------------------


class Pairs:
    """The pairs of inputs of a kernel, numbered: each training input with itself and all that come after it.

    Parameters
    ----------
    n
        Training inputs; they come first.
    total
        All inputs.

    Examples
    --------
    >>> [list(map(int, part)) for part in Pairs(2, 3)[0:5]]
    [[0, 0, 0, 1, 1], [0, 1, 2, 1, 2]]
    """

    def __init__(self, n: int, total: int) -> None:
        self._starts = np.concatenate([[0], np.cumsum(total - np.arange(n))])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, numbers: slice) -> tuple[NDArray, NDArray]:
        """Both inputs of the pairs with some numbers."""
        wanted = np.arange(*numbers.indices(len(self)))
        i = np.searchsorted(self._starts, wanted, side="right") - 1
        return i, i + wanted - self._starts[i]


# --- executing ------------------------------------------------------------------------------------


class _Execution:
    """One computation of kernels in a folder whose lock is held."""

    def __init__(self, prepared: PreparedKernel, folder: Path) -> None:
        self.prepared, self.folder = prepared, folder
        self.options, self.settings = prepared.options, prepared.checked.settings
        self.n, self.inputs = len(prepared.data.x), prepared.inputs
        self.pairs = Pairs(self.n, len(self.inputs)) if self.options.infinite else ()
        self.seeds = self.options.seeds if "empirical" in self.options.kinds else 0
        self.display = progress.display(max(len(self.pairs), 1), shared=devices.in_sweep(), unit="pair")
        self.interrupts = Interrupts(self.display.say)
        self.done, self.seconds = 0, 0.0
        self.saved = self.began = time.monotonic()
        self.manifest: dict[str, Any] = {}

    def run(self) -> RunResult:
        notes = self._open()
        status, reason = "done", None
        try:
            with self.interrupts, self.display:
                self._announce(notes)
                matrices = self._infinite()
                if matrices is None:
                    reason = f"{self.interrupts.reason} at pair {self.done} of {len(self.pairs)}"
                    status = "interrupted"
                else:
                    self._finish(matrices)
        except KeyboardInterrupt:
            status, reason = "interrupted", self.interrupts.reason or "Ctrl-C"
        except Exception as error:
            if wants_traceback():
                self._update("failed", reason=one_sentence(error))
                raise
            status, reason = "failed", describe_failure(error, self.folder, "kernel")
        with contextlib.suppress(UserError):
            self._update(status, reason=reason, finished=clock.now())
        if status == "interrupted":
            self.interrupts.forward()
        return RunResult(self.folder, status, reason)

    # --- the folder ---

    def _open(self) -> list[str]:
        """Begin in the folder, or go on with what is there; sentences on what was found."""
        prepared, text = self.prepared, OmegaConf.to_yaml(self.prepared.cfg, resolve=True)
        before: dict[str, Any] = {}
        if (self.folder / manifests.NAME).exists():
            before = manifests.read(self.folder)
        self.manifest = {
            "format": 1,
            "kind": "kernel",
            **before,
            **manifests.environment(),
            "started": before.get("started") or clock.now(),
            **describe_command(),
            "name": self.settings.name,
            "tags": self.settings.tags,
            "notes": self.settings.notes,
            "choices": prepared.choices,
            "steps": len(self.pairs) or self.seeds,
            "seed": self.settings.seed,
            "dtype": self.settings.dtype,
            "device": prepared.device[1],
            "num_parameters": prepared.trained.problem.num_parameters,
            "data_description": describe_data(prepared.data),
            "parts": {},
            "files": {},
            "config_sha256": [digests.of_text(text)],
        }
        kernels.write_table(self.folder, [])
        files.write_text(self.folder / "config.yaml", text)
        files.write_text(self.folder / "README.txt", kernels.README.format(folder=self.folder))
        notes = [] if not before else self._restore()
        self.began -= before.get("wall_seconds") or 0.0
        self._update("running", reason=None)
        return notes

    def _restore(self) -> list[str]:
        """Take what an interrupted computation has left."""
        path = self.folder / kernels.UNFINISHED
        if not path.exists():
            return []
        try:
            left = kernels.load(path)
            values = left["values"]
            if values.shape != self._shape:
                raise UserError(f"{path} is of other kernels")
        except (UserError, KeyError) as error:
            return [f"{error}; starting from the first pair"]
        self.done, self.seconds, self._values = int(left["done"]), float(left["seconds"]), values
        return [f"continuing from pair {self.done} of {len(self.pairs)}"]

    def _save(self) -> None:
        arrays = {"values": self._values, "done": np.array(self.done), "seconds": np.array(self.seconds)}
        kernels.save(self.folder / kernels.UNFINISHED, arrays)
        self.saved = time.monotonic()
        self._update("running")

    def _update(self, status: str, **fields: Any) -> None:
        spent = round(time.monotonic() - self.began, 3)
        now = {"status": status, "step": self.done, "wall_seconds": spent, "updated": clock.now()}
        self.manifest |= now | fields
        manifests.write(self.folder, self.manifest)

    def _announce(self, notes: list[str]) -> None:
        prepared, say = self.prepared, self.display.say
        say(f"{prepared.choices.get('model', 'model')} · {describe_data(prepared.data)}")
        depth = "" if not self.options.infinite else f" to depth {prepared.depth}"
        seeds = f", {self.seeds} initialisations" if self.seeds > 1 else ""
        say(f"{', '.join(self.options.kinds)}{depth}{seeds}, {self.settings.dtype} on {prepared.device[1]}")
        say(f"folder {self.folder}")
        for note in (*prepared.notes, *notes):
            say(f"note: {note}")

    # --- kernels of infinite width ---

    @property
    def _shape(self) -> tuple[int, ...]:
        """Kinds, readouts, depths, training inputs, all inputs."""
        prepared = self.prepared
        kinds = len(self.options.infinite)
        return kinds, len(prepared.readouts), prepared.depth, self.n, len(self.inputs)

    def _infinite(self) -> NDArray | None:
        """Kernels of all pairs; None where it was interrupted."""
        prepared, dtype = self.prepared, self.settings.dtype
        if not self.done:
            self._values = np.zeros(self._shape, dtype)
        if prepared.limit is None or not self.options.infinite:
            return self._values
        kernel = InfiniteKernel(prepared.limit, jnp.asarray(self.inputs, dtype), prepared.readouts)
        kinds = [_KINDS.index(kind) for kind in self.options.infinite]
        for block, (i, j) in self._blocks(kernel):
            began = time.monotonic()
            found = np.asarray(kernel(jnp.asarray(i), jnp.asarray(j)))[kinds][..., :block]
            i, j = i[:block], j[:block]
            self._values[..., i, j] = found
            both = j < self.n
            self._values[..., j[both], i[both]] = found[..., both]
            self.done += block
            self.seconds += time.monotonic() - began
            self.interrupts.unsaved = True
            self.display.reach(self.done)
            every = self.settings.checkpoint.seconds
            if self.interrupts.reason is not None and self.done < len(self.pairs):
                self._save()
                return None
            if self.interrupts.save or (every is not None and time.monotonic() - self.saved > every):
                self.interrupts.save = False
                self._save()
        return self._values

    def _blocks(self, kernel: InfiniteKernel) -> Iterator[tuple[int, tuple[NDArray, NDArray]]]:
        """Blocks of pairs, all of one size, so that one program does: how many count, and both inputs of each."""
        layers = max(len(kernel.limit.hidden), 1) * len(kernel.readouts)
        wanted = _BLOCK_SECONDS / (_NUMBER_SECONDS * kernel.pair_size * layers)
        size = kernel.batch * max(1, int(min(wanted, len(self.pairs) - self.done) / kernel.batch))
        for first in itertools.count(self.done, size):
            i, j = self.pairs[first : first + size]
            if not len(i):
                return
            left = size - len(i)
            yield len(i), (np.pad(i, (0, left)), np.pad(j, (0, left)))

    # --- the rest ---

    def _finish(self, values: NDArray) -> None:
        """Regression with each kernel, empirical kernels, and the files."""
        matrices: dict[str, NDArray] = {}
        rows: list[dict[str, Any]] = []

        def add(name: str, both: NDArray, row: dict[str, Any]) -> None:
            matrices[name] = both[:, : self.n]
            if len(self.inputs) > self.n:
                matrices[f"{name}_test"] = both[:, self.n :].T
            rows.append(row | self._row(both))

        for k, kind in enumerate(self.options.infinite):
            for r, readout in enumerate(self.prepared.readouts):
                for depth in range(1, self.prepared.depth + 1):
                    row = {"kind": kind, "readout": readout, "depth": depth, "seconds": self.seconds}
                    add(f"{kind}_{readout}_{depth}", values[k, r, depth - 1], row)
        limit = self.prepared.limit
        for seed, both, seconds in self._empirical():
            row = {"kind": "empirical", "seed": seed, "seconds": seconds}
            if limit is not None:
                row |= {"readout": limit.readout, "depth": limit.depth}
                wide = matrices.get(f"ntk_{limit.readout}_{limit.depth}")
                if wide is not None:
                    row["distance"] = float(np.linalg.norm(both[:, : self.n] - wide) / np.linalg.norm(wide))
            add(f"empirical_{seed}", both, row)
        kernels.save(self.folder / kernels.MATRICES, matrices)
        kernels.write_table(self.folder, rows)
        self.done = self.manifest["steps"]
        self._update("running", files=kernels.digests_of(self.folder))
        (self.folder / kernels.UNFINISHED).unlink(missing_ok=True)

    def _empirical(self) -> Iterator[tuple[int, NDArray, float]]:
        """Seed, kernel (n, n + m) and seconds of each empirical kernel."""
        problem, dtype = self.prepared.trained.problem, self.settings.dtype
        x = jnp.asarray(self.inputs, dtype)
        for seed in range(self.settings.seed, self.settings.seed + self.seeds):
            began = time.monotonic()
            weights = self.prepared.weights
            if weights is None:
                model = assembling.network(self.prepared.cfg, self.prepared.data, seed)
                weights = np.asarray(ravel_pytree(assembling.parameters(model, dtype))[0])
            kernel = tangent_kernel(problem.objective.apply, jnp.asarray(weights, dtype), x)
            yield seed, kernel[: self.n], time.monotonic() - began

    def _targets(self, y: NDArray) -> NDArray:
        """Targets of the regression: those of the loss, of classes less 1/k, so that zero favours none."""
        outputs = self.prepared.data.num_outputs
        if self.prepared.data.task == "classification":
            return np.eye(outputs)[y] - 1 / outputs
        return y.astype(np.float64).reshape(len(y), outputs)

    def _row(self, both: NDArray) -> dict[str, Any]:
        """What the table has of one kernel (n, n + m)."""
        data = self.prepared.data
        found = regress(both[:, : self.n], both[:, self.n :].T, self._targets(data.y))
        row = {
            "n": self.n,
            "lambda_max": found.eigenvalues[-1],
            "lambda_min": found.eigenvalues[0],
            "condition": found.condition,
            "edge_lr": found.edge_lr,
        }
        splits = [("", found.fitted, data.y)]
        if data.x_test is not None:
            splits.append(("test_", found.predicted, data.y_test))
        for split, outputs, y in splits:
            row[f"{split}loss"] = 0.5 * np.mean(np.sum((outputs - self._targets(y)) ** 2, axis=1))
            row[f"{split}accuracy"] = float(MSE.accuracy(jnp.asarray(outputs, jnp.float32), jnp.asarray(y)))
        return row
