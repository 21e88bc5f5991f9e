"""One process of a simulation as it goes: its state, its block of eigenvectors, what it has spent, how it stands."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from cflow_cli.computing import whole
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.engine import measuring
from cflow_cli.engine.chunk import ChunkResult, State, run_chunk
from cflow_cli.engine.discrete import Trajectory
from cflow_cli.engine.processes import Context, Process
from cflow_cli.engine.strain import at_ease
from cflow_cli.problem import Problem
from cflow_cli.records import Status

# Sizes of blocks: each is compiled for anew, so that they grow by a third and more.
_BLOCKS = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
# Steps in which a new block may iterate until its eigenvectors have settled.
_SETTLING = 2
# What a checkpoint holds of a process besides its arrays.
_NOTED = ("stopped_at", "worst", "roomy", "settled", "substeps", "counts")
# A flow divides its steps by this at most, beyond what was asked for: each doubling is compiled for, and costs as much.
_MOST_DIVIDED = 8


@dataclass
class Running:
    """A process and where it stands.

    Parameters
    ----------
    kind
        Its options.
    process
        What is stepped.
    state
        Its own and that of its measurements; None before it began.
    status, stopped_at
        The last, and the step at which it ended the process.
    worst
        Steps with each complaint.
    roomy
        Steps since its block was last needed.
    settled
        Step from which its eigenvectors only have to follow.
    substeps
        In how many parts a flow takes a step; 0 for what is no flow.
    counts
        Gradients, Hessian-vector products and third derivatives spent.
    """

    kind: Any
    process: Process[Any]
    state: State | None = None
    status: Status = Status.OK
    stopped_at: int | None = None
    worst: dict[str, int] = field(default_factory=dict)
    roomy: int = 0
    settled: int = 0
    substeps: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(measuring.COSTS, 0))

    @property
    def block(self) -> int:
        """Eigenvectors that it follows."""
        assert self.state is not None
        return self.process.rows(self.state.process).shape[0]

    @property
    def weights(self) -> Array | None:
        """Where it is at the start of the next step; None for the optimizer, which knows itself."""
        assert self.state is not None
        return self.process.weights(self.state.process)

    def initial(self, weights: Array, optimizer: Any, block: int, key: Array, problem: Problem) -> State:
        """The state in which it begins beside the optimizer."""
        own = self.process.init(weights, optimizer, block, key, self.kind.switch)
        return State(own, measuring.start(self.process.measurements, problem, self.process.rows(own)))

    def begin(self, state: State, step: int) -> None:
        """Begin at a step."""
        self.state, self.settled = state, _SETTLING + max(step, self.kind.first_step)

    def advance(
        self, problem: Problem, context: Context, path: Trajectory, first: int, row: int, count: int
    ) -> tuple[ChunkResult, dict[str, np.ndarray]]:
        """Step along rows of a path: how far it came and why it ended there, and the new records."""
        assert self.state is not None
        first_, row_, count_, settled = (
            jnp.asarray(value, jnp.int32) for value in (first, row, count, self.settled)
        )
        result = whole(
            run_chunk(self.process, problem, context, self.state, path, first_, row_, count_, settled)
        )
        on_host = {name: value for name, value in result._asdict().items() if name != "state"}
        result = result._replace(**jax.device_get(on_host))
        self.state = result.state  # only now: where the device had no memory, the one before is gone on from
        records = {k: np.asarray(v[row : int(result.done)]) for k, v in result.records.items()}
        if "x_trace" in records and "sigma_trace" not in records:
            records["sigma_trace"] = records["effective_step_size"] * records["x_trace"]
        if result.done > row:
            self._count_costs(records)
        return result, records

    def _count_costs(self, records: Mapping[str, np.ndarray]) -> None:
        for cost in measuring.COSTS:
            self.counts[cost] += int(records[cost].sum())
        for code, times in zip(*np.unique(records["status"], return_counts=True), strict=True):
            if code != Status.OK:
                label = Status(int(code)).label
                self.worst[label] = self.worst.get(label, 0) + int(times)

    def stop(self, records: Mapping[str, np.ndarray]) -> str:
        """Take down why it ended; a sentence on it."""
        self.status, self.stopped_at = Status(int(records["status"][-1])), int(records["step"][-1])
        return f"{self.kind.name} stopped at step {self.stopped_at}: {self.status.sentence}"

    def grow(self, eigs: EigsOptions, n: int, step: int, key: Array) -> None:
        """Take the next larger block."""
        larger = min(next(b for b in (*_BLOCKS, n) if b > self.block), eigs.max_tracked, n)
        self._resize(larger, key)
        self.settled = step + _SETTLING

    @property
    def divided_kind(self) -> Any:
        """Its options with the sub-steps that it has come to need."""
        same = self.substeps == getattr(self.kind, "substeps", 0)
        return self.kind if same else replace(self.kind, substeps=self.substeps)

    @property
    def divisible(self) -> bool:
        """Whether its steps may be divided further."""
        return bool(self.substeps) and self.substeps < _MOST_DIVIDED * self.kind.substeps

    def divide(self, step: int) -> str:
        """Take twice the sub-steps from ``step`` on, once the process is made anew; a sentence on it."""
        assert self.state is not None
        self.substeps *= 2
        own = self.state.process
        self.state = self.state._replace(process=own._replace(watch=at_ease(own.weights.dtype)))
        return (
            f"{self.kind.name}: curvature changes too much in one step to hold S_eff at 2; {self.substeps} sub-steps "
            f"per step from step {step} on"
        )

    def shrink_if_roomy(
        self, eigs: EigsOptions, records: Mapping[str, np.ndarray], key: Array, allowed: bool, long: int
    ) -> None:
        """Give up vectors not needed for ``long``; ``allowed`` where every division into chunks has an end."""
        smaller = max((b for b in _BLOCKS if (eigs.block or 0) <= b < self.block), default=self.block)
        if smaller == self.block:
            return
        crowded = np.flatnonzero(records["num_tracked"] > smaller - eigs.guard_vectors - 1)
        rows = len(records["step"])
        self.roomy = rows - 1 - int(crowded[-1]) if len(crowded) else self.roomy + rows
        if self.roomy >= long and allowed:
            self._resize(smaller, key)

    def _resize(self, block: int, key: Array) -> None:
        assert self.state is not None
        own = self.process.resize(self.state.process, block, jax.random.fold_in(key, block))
        self.state, self.roomy = self.state._replace(process=own), 0

    def standing(self) -> dict[str, Any]:
        """How it stands: status, the step of its end if it stopped, steps with each complaint, a sentence."""
        complaint = self.status
        if complaint == Status.OK and self.worst:
            complaint = max(Status[k.upper()] for k in self.worst)
        return {
            "status": complaint.label,
            "step": self.stopped_at,
            "steps_with": dict(self.worst),
            "sentence": complaint.sentence,
        }

    def notes(self) -> dict[str, Any]:
        """What a checkpoint holds besides the arrays, as JSON can."""
        noted = {key: deepcopy(getattr(self, key)) for key in _NOTED}
        return {"block": self.block, "status": self.status.label, **noted}

    def restore(self, state: State, notes: Mapping[str, Any]) -> None:
        """Go on from what a checkpoint held."""
        self.state, self.status = state, Status[notes["status"].upper()]
        for key in _NOTED:
            setattr(self, key, deepcopy(notes[key]))


@dataclass
class Part:
    """What a process has of a chunk so far.

    Parameters
    ----------
    run
        The process.
    row
        To which it has come.
    records, messages
        By its name, and sentences.
    """

    run: Running
    row: int
    records: list[tuple[str, dict[str, np.ndarray]]] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
