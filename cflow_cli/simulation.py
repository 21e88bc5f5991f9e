"""The optimizer and its flows in lock-step, in compiled chunks of steps.

Knows nothing of configs, files or terminals: give it a :class:`~cflow_cli.problem.Problem` and an optax optimizer.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jaxtyping import Array, Float, Int

from . import options
from .curvature import random_rows
from .errors import UserError
from .optimizers.update_map import UpdateMap
from .options import Discrete, EigsOptions
from .problem import Problem
from .processes import ChunkResult, Context, FlowProcess, Observer, Trajectory, run_chunk
from .records import EIGENVALUES, METRICS, Column, Status

_BLOCKS = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_PATH_BYTES = 256 * 2**20
_LONGEST_CHUNK = 50
_FIRST_CHUNK = 4
# A signal is answered, and a bar moves, at the end of a chunk.
_CHUNK_SECONDS = 1.0
# Steps in which a new block may iterate until its eigenvectors have settled.
_SETTLING = 2
_SMALL = 50_000
_ADAPTIVE_WARM_START = 5

_COUNTS = ("gradients", "hvps", "third_derivatives")
# What a checkpoint holds of a process besides its arrays.
_NOTED = ("stopped_at", "worst", "roomy", "settled", "counts")

NAMED: dict[str, Any] = {cls.name: cls for cls in options.BUILT_IN}


class DiscreteState(NamedTuple):
    """The real optimizer: the iterate before, the iterate, its optax state, steps taken."""

    before: Float[Array, " params"]
    weights: Float[Array, " params"]
    optimizer: Any
    step: Int[Array, ""]


@eqx.filter_jit
def _run_discrete(
    problem: Problem,
    optimizer: UpdateMap,
    state: DiscreteState,
    rows: int,
    count: Array,
    key: Array,
    kick: Array,
) -> tuple[DiscreteState, Trajectory]:
    """A plain optax loop of ``count`` ≤ ``rows`` steps, with the path it took (and w_{t−1} before it)."""
    n, dtype = state.weights.shape[0], state.weights.dtype
    path = Trajectory(
        jnp.zeros((rows + 2, n), dtype).at[0].set(state.before).at[1].set(state.weights),
        jnp.ones((rows, 1 if optimizer.uniform or optimizer.refusal is not None else n), dtype),
    )

    def body(r: Array, carry: tuple[DiscreteState, Trajectory]) -> tuple[DiscreteState, Trajectory]:
        state, path = carry
        # optax's own update, its numbers known to the compiler: equal to a plain optax loop to the bit.
        delta, new = optimizer.transformation.update(
            problem.gradient(state.weights), state.optimizer, state.weights
        )
        w = optax.apply_updates(state.weights, delta)
        w = jax.lax.cond(
            kick > 0,
            lambda w: w + kick * jax.random.normal(jax.random.fold_in(key, state.step), (n,), dtype) / n**0.5,
            lambda w: w,
            w,
        )
        if optimizer.refusal is None:
            d, _ = optimizer.linear_response(new)
            path = path._replace(preconditioner=path.preconditioner.at[r].set(d))
        path = path._replace(weights=path.weights.at[r + 2].set(w))
        return DiscreteState(state.weights, w, new, state.step + 1), path

    return jax.lax.fori_loop(0, count, body, (state, path))


@dataclass
class _Running:
    """A process, its state, and what it has spent."""

    spec: Any
    process: Any
    state: Any = None
    status: Status = Status.OK
    stopped_at: int | None = None
    worst: dict[str, int] = field(default_factory=dict)
    roomy: int = 0
    settled: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTS, 0))

    @property
    def name(self) -> str:
        return self.spec.name


@dataclass(frozen=True)
class Chunk:
    """What one chunk of steps brought.

    Parameters
    ----------
    step
        Optimizer steps completed.
    metrics, eigenvalues
        Columns of :data:`cflow_cli.records.METRICS` and :data:`cflow_cli.records.EIGENVALUES`; NaN where missing.
    loss, effective_sharpness
        Newest finite value of each process, for a progress bar.
    num_critical
        Number of critical eigenvalues of the central flow, or of the first process measured; None if unknown.
    messages
        Sentences worth showing at once.
    """

    step: int
    metrics: dict[str, np.ndarray]
    eigenvalues: dict[str, np.ndarray]
    loss: dict[str, float]
    effective_sharpness: dict[str, float]
    num_critical: int | None
    messages: list[str]


@dataclass(frozen=True)
class Result:
    """Outcome of :func:`simulate`.

    Parameters
    ----------
    metrics
        One row per step and process, the columns of :data:`cflow_cli.records.METRICS`.
    eigenvalues
        Long: step, process, kind, index, value; kinds in :data:`cflow_cli.records.KINDS`.
    weights
        Final flat weights of each process that has some, shape (n,).
    counts
        Gradients, Hessian-vector products and third derivatives spent per process.
    statuses
        How each process ended, since which step, and a sentence.
    """

    metrics: pd.DataFrame
    eigenvalues: pd.DataFrame
    weights: dict[str, np.ndarray]
    counts: dict[str, dict[str, int]]
    statuses: dict[str, dict[str, Any]]


class Start(NamedTuple):
    """Where a simulation branches off another one; see :func:`branch`.

    Parameters
    ----------
    before, weights
        Iterates w_{t−1} and w_t, shape (n,).
    optimizer
        Arrays of the optax state there, by name.
    """

    before: np.ndarray
    weights: np.ndarray
    optimizer: dict[str, np.ndarray]


def branch(arrays: Mapping[str, np.ndarray], process: str) -> Start:
    """The point one process has reached in a snapshot, as the start of another simulation.

    Parameters
    ----------
    arrays
        Of a :class:`Snapshot`.
    process
        ``discrete``, or a flow that had started.

    Raises
    ------
    UserError
        If the snapshot does not have that process.
    """
    prefix = "discrete." if process == "discrete" else f"{process}.flow."
    if prefix + "weights" not in arrays:
        own = sorted({name.split(".")[0] for name in arrays if name.endswith(".weights")})
        raise UserError(f"there is no {process} process to start from; there is {', '.join(own)}")
    weights = arrays[prefix + "weights"]
    state = prefix + "optimizer."
    optimizer = {name.removeprefix(state): a for name, a in arrays.items() if name.startswith(state)}
    return Start(arrays.get(prefix + "before", weights), weights, optimizer)


class Snapshot(NamedTuple):
    """All that a simulation needs to go on, but for its settings.

    Parameters
    ----------
    header
        Step, and of each process its block size, status, counts; holds what JSON can hold.
    arrays
        Arrays by name, as in ``central.flow.weights``.
    """

    header: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Simulation:
    """The optimizer and the processes beside it; iterate over it to run, chunk by chunk.

    Parameters
    ----------
    problem
        The training loss; its ``w0`` fixes start and precision.
    optimizer
        Any optax ``GradientTransformation``, learning rate included.
    processes
        Names or options from :mod:`cflow_cli.options`; "discrete" is always run and recorded if named.
    steps
        Optimizer steps.
    warm_start
        Steps of the optimizer before the flows branch off; by default 5 for adaptive optimizers, whose D is infinite
        at first, else 0.
    seed
        Of the starting vectors of the eigensolver, of the kicks and of the watched coordinates.
    eigs
        Eigenvalue tracking.
    learning_rate
        Number or schedule, only for the ``learning_rate`` column.
    eval_every
        Steps between evaluations of accuracy and test loss.
    coordinates
        Number of weights whose squared gradients and step sizes are recorded, or their indices.
    outputs
        Number of training examples whose outputs are recorded: the first so many.
    kick
        Norm of a Gaussian kick added to the discrete weights at each step; 0 leaves the plain optax loop.
    chunk
        Most steps per compiled call; by default as many as keep the path below 256 MB, at most 50. A call takes fewer
        where that many would last longer than a second; no result depends on it.
    pause_every
        A chunk ends at every multiple of this step, for checkpoints; None for wherever it suits.
    start
        Where to start instead of the problem's ``w0``. The optimizer's state is taken over where it has the same form,
        as :attr:`takes_over` then says.

    Raises
    ------
    UserError
        If an option is out of range, a process unknown, or a flow is asked of an optimizer that has none.
    """

    def __init__(
        self,
        problem: Problem,
        optimizer: optax.GradientTransformation,
        *,
        processes: Sequence[str | Any] = ("discrete", "midpoint", "stable", "central"),
        steps: int = 500,
        warm_start: int | None = None,
        seed: int = 0,
        eigs: EigsOptions | None = None,
        learning_rate: float | Callable[[Any], Any] | None = None,
        eval_every: int = 10,
        coordinates: int | Sequence[int] = 3,
        outputs: int = 0,
        kick: float = 0.0,
        chunk: int | None = None,
        pause_every: int | None = None,
        start: Start | None = None,
    ) -> None:
        _make_room()
        if start is not None:
            problem = _moved(problem, start)
        self.problem = problem
        self.steps = steps
        self.eigs = eigs or EigsOptions()
        self._specs = [_specification(p) for p in processes]
        self._check(steps, eval_every, kick)
        self.optimizer = UpdateMap.of(optimizer, problem.w0)
        flows = [str(s.name) for s in self._specs if isinstance(s, options.Flow)]
        if self.optimizer.refusal and flows:
            raise UserError(
                f"no {' or '.join(flows)} flow for this optimizer: {self.optimizer.refusal}; "
                "run it with processes=[discrete]"
            )
        optimizer_state = self.optimizer.init(problem.w0)
        taken_over = None if start is None else _filled(optimizer_state, start.optimizer)
        self.takes_over = taken_over is not None
        if warm_start is None:
            warm_start = _ADAPTIVE_WARM_START if self.optimizer.adaptive and not self.takes_over else 0
        self.warm_start = warm_start
        if not 0 <= self.warm_start <= steps:
            raise UserError(f"warm_start must lie between 0 and steps={steps}, got {self.warm_start}")
        self._learning_rate = learning_rate
        self._kick = kick
        key = jax.random.PRNGKey(seed)
        self._kick_key, self._block_key, probe_key = jax.random.split(key, 3)
        self.eigs = _fitted(self.eigs, problem.num_parameters)
        self._block: int = self.eigs.initial  # type: ignore[assignment]  # filled in by _fitted
        self._rows = chunk or _chunk_length(problem, self.optimizer, steps)
        loss, gradient = eqx.filter_jit(lambda p: (p.loss(p.w0), p.gradient(p.w0)))(problem)
        self._context = Context(
            initial_loss=loss,
            coordinates=_coordinates(coordinates, np.asarray(gradient), seed),
            examples=jnp.arange(min(outputs, problem.num_examples)),
            eval_every=jnp.asarray(eval_every, jnp.int32),
            last_step=jnp.asarray(steps - 1, jnp.int32),
            probe=random_rows(probe_key, 1, problem.num_parameters, problem.w0.dtype)[0],
        )
        self._watched = np.asarray(self._context.coordinates)
        self._discrete = DiscreteState(
            problem.w0 if start is None else jnp.asarray(start.before, problem.w0.dtype),
            problem.w0,
            optimizer_state if taken_over is None else taken_over,
            jnp.zeros((), jnp.int32),
        )
        self._pause_every = pause_every or steps
        self._pace = min(_FIRST_CHUNK, self._rows)
        self._runs = {s.name: _Running(s, self._process(s)) for s in self._specs}
        self._chunks: list[Chunk] = []

    def _check(self, steps: int, eval_every: int, kick: float) -> None:
        if steps < 1:
            raise UserError(f"steps must be at least 1, got {steps}")
        if eval_every < 1:
            raise UserError(f"eval_every must be at least 1, got {eval_every}")
        if kick < 0:
            raise UserError(f"kick must not be negative, got {kick}")
        names = [s.name for s in self._specs]
        if not names or len(set(names)) < len(names):
            raise UserError(f"processes must name each process once and at least one, got {names}")

    def _process(self, spec: Any) -> Any:
        if isinstance(spec, options.Flow):
            return FlowProcess(spec.stepper(self.optimizer, self.eigs), self.eigs, spec.substeps)
        return Observer(self.optimizer, self.eigs)

    @property
    def step(self) -> int:
        """Optimizer steps taken so far."""
        return int(self._discrete.step)

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Gradients, Hessian-vector products and third derivatives spent per process."""
        return {name: dict(run.counts) for name, run in self._runs.items()}

    @property
    def statuses(self) -> dict[str, dict[str, Any]]:
        """How each process stands: status, the step of its end if it stopped, steps with each complaint, a sentence."""
        out = {}
        for name, run in self._runs.items():
            complaint = run.status
            if complaint == Status.OK and run.worst:
                complaint = max(Status[k.upper()] for k in run.worst)
            out[name] = {
                "status": complaint.label,
                "step": run.stopped_at,
                "steps_with": dict(run.worst),
                "sentence": complaint.sentence,
            }
        return out

    def __iter__(self) -> Iterator[Chunk]:
        """Run to the end, yielding after each chunk; leaving the loop early leaves everything consistent."""
        # Devices that exchange sums must be given all programs in one order.
        at_once = len(self._runs) if self.problem.num_devices == 1 else 1
        threads = ThreadPoolExecutor(max_workers=max(at_once, 1))
        try:
            while self.step < self.steps:
                yield self._advance(threads)
        finally:
            threads.shutdown()

    def snapshot(self) -> Snapshot:
        """The state between two chunks, from which an equal simulation goes on bit for bit."""
        header: dict[str, Any] = {"step": self.step, "processes": {}}
        arrays = _named(self._discrete, "discrete")
        for name, run in self._runs.items():
            if run.state is not None:
                noted = {key: getattr(run, key) for key in _NOTED}
                block = run.process.block(run.state)
                header["processes"][name] = {"block": block, "status": run.status.label, **noted}
                # "discrete" is the optimizer itself; its measurement goes by another name.
                arrays |= _named(run.state, "iterates" if name == Discrete.name else name)
        return Snapshot(header, arrays)

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot of a simulation with the same settings.

        Raises
        ------
        UserError
            If it is not a snapshot of such a simulation.
        """
        foreign = UserError("the checkpoint does not belong to a run with these settings")
        known = snapshot.header["processes"]
        discrete = _filled(self._discrete, snapshot.arrays, "discrete")
        if discrete is None or not set(known) <= set(self._runs):
            raise foreign
        self._discrete = discrete
        for name, run in self._runs.items():
            if name not in known:
                continue
            noted = dict(known[name])
            block, label = noted.pop("block"), noted.pop("status")
            form = eqx.filter_eval_shape(lambda: self._initial(run, self._discrete, block))  # noqa: B023
            state = _filled(form, snapshot.arrays, "iterates" if name == Discrete.name else name)
            if state is None:
                raise foreign
            run.state, run.status = state, Status[label.upper()]
            for key in _NOTED:
                setattr(run, key, noted[key])

    def _advance(self, threads: ThreadPoolExecutor) -> Chunk:
        began, first = time.monotonic(), self.step
        until = self.warm_start if first < self.warm_start else self.steps
        ends = self._rows, self._pause_every
        count = min(self._pace, until - first, *(end - first % end for end in ends))
        begin = self._discrete
        self._discrete, path = _run_discrete(
            self.problem,
            self.optimizer,
            begin,
            self._rows,
            jnp.asarray(count),
            self._kick_key,
            jnp.asarray(self._kick, self.problem.w0.dtype),
        )
        for run in self._runs.values():
            if run.state is None and (not _is_flow(run.process) or first >= self.warm_start):
                run.state = self._initial(run, begin, self._block)
                run.settled = _SETTLING + (1 if _is_midpoint(run) and first == 0 else first)
        at_work = [r for r in self._runs.values() if r.state is not None and not r.status.stops]
        parts = list(threads.map(lambda run: self._advance_process(run, path, first, count), at_work))
        records = [p for part in parts for p in part[0]]
        chunk = _collect(first + count, records, self._rates(first, count), self._watched)
        chunk.messages.extend(m for part in parts for m in part[1])
        self._chunks.append(chunk)
        seconds = max(time.monotonic() - began, 1e-6) / count
        self._pace = max(1, min(int(_CHUNK_SECONDS / seconds), self._rows))
        return chunk

    def _initial(self, run: _Running, at: DiscreteState, block: int) -> Any:
        if _is_flow(run.process):
            return run.process.init(
                at.weights, at.optimizer, block, self._block_key, oscillates=run.spec.oscillates
            )
        return run.process.init(at.weights, block, self._block_key, midpoint=_is_midpoint(run))

    def _advance_process(
        self, run: _Running, path: Trajectory, first: int, count: int
    ) -> tuple[list[tuple[str, dict[str, np.ndarray]]], list[str]]:
        """Step one process through a chunk, growing its block as often as needed."""
        parts, messages, row = [], [], 1 if _is_midpoint(run) and first == 0 else 0
        while row < count:
            result: ChunkResult = run_chunk(
                run.process,
                self.problem,
                self._context,
                run.state,
                path,
                jnp.asarray(first, jnp.int32),
                jnp.asarray(row, jnp.int32),
                jnp.asarray(count, jnp.int32),
                jnp.asarray(run.settled, jnp.int32),
            )
            done, grow, stopped, records = jax.device_get(
                (result.done, result.grow, result.stopped, result.records)
            )
            run.state = result.state
            done = int(done)
            records = {k: v[row:done] for k, v in records.items()}
            if done > row:
                parts.append((run.name, records))
                _account(run, records)
            row = done
            if stopped:
                run.status, run.stopped_at = Status(int(records["status"][-1])), int(records["step"][-1])
                messages.append(f"{run.name} stopped at step {run.stopped_at}: {run.status.sentence}")
                break
            if grow:
                larger = _larger(run.process.block(run.state), self.eigs, self.problem.num_parameters)
                self._resize(run, larger, first + row)
            elif row == count:
                self._shrink_if_roomy(run, parts, first + count)
        return parts, messages

    def _resize(self, run: _Running, block: int, step: int) -> None:
        if block > run.process.block(run.state):
            run.settled = step + _SETTLING
        key = jax.random.fold_in(self._block_key, block)
        run.state, run.roomy = run.process.resize(run.state, block, key), 0

    def _shrink_if_roomy(
        self, run: _Running, parts: list[tuple[str, dict[str, np.ndarray]]], step: int
    ) -> None:
        """Give up vectors that were not needed for long; only where every division into chunks has an end."""
        block = run.process.block(run.state)
        smaller = max((b for b in _BLOCKS if self._block <= b < block), default=block)
        if not parts or smaller == block:
            return
        crowded = np.flatnonzero(parts[-1][1]["num_tracked"] > smaller - self.eigs.guard - 1)
        rows = len(parts[-1][1]["step"])
        run.roomy = rows - 1 - int(crowded[-1]) if len(crowded) else run.roomy + rows
        if run.roomy >= 2 * _LONGEST_CHUNK and step % self._rows == 0:
            self._resize(run, smaller, step)

    def _rates(self, first: int, count: int) -> np.ndarray:
        rate = self._learning_rate
        if rate is None:
            return np.full(count, np.nan)
        if callable(rate):
            return np.asarray([float(rate(t)) for t in range(first, first + count)])
        return np.full(count, float(rate))

    def result(self) -> Result:
        """Everything so far, as data frames and arrays."""

        def frame(which: str, columns: Any) -> pd.DataFrame:
            tables = [getattr(c, which) for c in self._chunks]
            return pd.DataFrame({c.name: np.concatenate([t[c.name] for t in tables]) for c in columns})

        weights = {
            name: np.asarray(run.state.flow.weights)
            for name, run in self._runs.items()
            if _is_flow(run.process) and run.state is not None
        }
        return Result(
            frame("metrics", METRICS),
            frame("eigenvalues", EIGENVALUES),
            weights | {"discrete": np.asarray(self._discrete.weights)},
            self.counts,
            self.statuses,
        )


def simulate(problem: Problem, optimizer: optax.GradientTransformation, **settings: Any) -> Result:
    """Run an optimizer with its midpoints and flows side by side.

    Parameters
    ----------
    problem, optimizer, **settings
        As in :class:`Simulation`.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from cflow_cli import Problem, simulate
    >>> problem = Problem.from_function(lambda w: 0.5 * jnp.sum(jnp.array([3.0, 1.0, 0.5]) * w**2), jnp.ones(3))
    >>> result = simulate(problem, optax.sgd(0.1), processes=("discrete", "midpoint"), steps=3)  # and "central", …
    >>> float(result.metrics.query("process == 'midpoint'").effective_sharpness.iloc[-1].round(5))
    0.3
    """
    simulation = Simulation(problem, optimizer, **settings)
    for _ in simulation:
        pass
    return simulation.result()


def _specification(process: str | Any) -> Any:
    if not isinstance(process, str):
        return process
    if process not in NAMED:
        raise UserError(f"unknown process {process!r}; choose from {', '.join(NAMED)}")
    return NAMED[process]()


def _make_room() -> None:
    """Forget compiled programs before the process has no memory maps left for another.

    A simulation's take some two thousand on a CPU, and Linux grants a process 65,530: a sweep of forty runs in one
    process would crash. On other systems there is no such limit to look up.
    """
    with contextlib.suppress(OSError, ValueError):
        most = int(Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii"))
        with Path("/proc/self/maps").open("rb") as maps:
            crowded = sum(1 for _ in maps) > most / 2
        if crowded:
            jax.clear_caches()
            gc.collect()


def _moved(problem: Problem, start: Start) -> Problem:
    if start.weights.shape != problem.w0.shape:
        raise UserError(
            f"cannot start from {len(start.weights)} weights in a model of {problem.num_parameters}; "
            "choose the model and data of the run to start from"
        )
    return eqx.tree_at(lambda p: p.w0, problem, jnp.asarray(start.weights, problem.w0.dtype))


def _named(tree: Any, prefix: str) -> dict[str, np.ndarray]:
    """Arrays of a tree by their names in it."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {f"{prefix}.{_path(path)}": np.asarray(leaf) for path, leaf in leaves if eqx.is_array(leaf)}


def _filled(form: Any, arrays: Mapping[str, np.ndarray], prefix: str | None = None) -> Any:
    """A tree of the given form with the arrays of those names; None where one is missing or of another shape."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(form)
    found = []
    for path, leaf in leaves:
        if not hasattr(leaf, "shape"):
            found.append(leaf)
            continue
        array = arrays.get(_path(path) if prefix is None else f"{prefix}.{_path(path)}")
        if array is None or array.shape != leaf.shape or array.dtype != leaf.dtype:
            return None
        found.append(jnp.asarray(array))
    return jax.tree_util.tree_unflatten(structure, found)


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _is_flow(process: Any) -> bool:
    return isinstance(process, FlowProcess)


def _is_midpoint(run: _Running) -> bool:
    return run.name == options.Midpoint.name


def _fitted(eigs: EigsOptions, n: int) -> EigsOptions:
    """Options with the default size of block, or blocks that hold the whole spectrum of a handful of weights."""
    initial = eigs.initial or min(6 if n < _SMALL else 4, eigs.max_tracked)
    if n > initial:
        return replace(eigs, initial=initial, max_tracked=min(eigs.max_tracked, n))
    whole = copy(eigs)
    for name, value in {"initial": n, "max_tracked": n, "guard": 0}.items():
        object.__setattr__(whole, name, value)  # no guard is needed, which the checks do not allow
    return whole


def _larger(block: int, eigs: EigsOptions, n: int) -> int:
    return min(next(b for b in (*_BLOCKS, n) if b > block), eigs.max_tracked, n)


def _chunk_length(problem: Problem, optimizer: UpdateMap, steps: int) -> int:
    per_row = problem.num_parameters * problem.w0.dtype.itemsize * (1 if optimizer.uniform else 2)
    return max(1, min(_LONGEST_CHUNK, _PATH_BYTES // per_row, steps))


def _coordinates(wanted: int | Sequence[int], gradient: np.ndarray, seed: int) -> Array:
    """Indices as given, or a random choice among the tenth of the weights with the largest gradients."""
    n = len(gradient)
    if not isinstance(wanted, int):
        if any(not 0 <= i < n for i in wanted):
            raise UserError(f"coordinates must lie in 0..{n - 1}, got {list(wanted)}")
        return jnp.asarray(list(wanted), jnp.int32)
    if wanted < 0:
        raise UserError(f"coordinates must not be negative, got {wanted}")
    wanted = min(wanted, n)
    pool = np.argsort(-np.abs(gradient), kind="stable")[: max(n // 10, wanted)]
    return jnp.asarray(np.sort(np.random.default_rng(seed).choice(pool, wanted, replace=False)), jnp.int32)


def _account(run: _Running, records: dict[str, np.ndarray]) -> None:
    for name in _COUNTS:
        if name in records:
            run.counts[name] += int(records[name].sum())
    for code, times in zip(*np.unique(records["status"], return_counts=True), strict=True):
        if code != Status.OK:
            label = Status(int(code)).label
            run.worst[label] = run.worst.get(label, 0) + int(times)


_SPECTRA = ("effective", "hessian", "sigma", "sigma_measured", "displacement", "output")
_WATCHED = ("grad_sq", "predicted_grad_sq", "preconditioner", "stationary_preconditioner")
_LABELS = np.array([s.label for s in Status], dtype=object)


def _collect(
    step: int, parts: list[tuple[str, dict[str, np.ndarray]]], rates: np.ndarray, watched: np.ndarray
) -> Chunk:
    """Records of a chunk as the two tables and the figures of a progress bar."""
    rows, spectra = [], []
    loss, sharpness, critical = {}, {}, {}
    for name, records in parts:
        steps = records["step"]
        table: dict[str, np.ndarray] = {}
        for column in METRICS:
            if column.name == "process":
                value = np.full(len(steps), name, dtype=object)
            elif column.name == "status":
                value = _LABELS[records["status"]]
            elif column.name == "learning_rate":
                value = rates[steps - (step - len(rates))]
            elif column.name == "sharpness":
                value = records["hessian"][:, 0].astype(np.float64)
            elif column.name in records:
                value = records[column.name].astype(column.type)
            else:
                value = (
                    np.zeros(len(steps), np.int32) if column.type == "int32" else np.full(len(steps), np.nan)
                )
            table[column.name] = value
        rows.append(table)
        spectra += [_long(name, kind, steps, records[kind]) for kind in _SPECTRA if kind in records]
        spectra += [_long(name, kind, steps, records[kind], watched) for kind in _WATCHED if kind in records]
        loss[name] = float(records["loss"][-1])
        known = np.flatnonzero(records["num_critical"] >= 0)
        if len(known):
            sharpness[name] = float(records["effective_sharpness"][known[-1]])
            critical[name] = int(records["num_critical"][known[-1]])
    return Chunk(
        step,
        _joined(rows, METRICS),
        _joined(spectra, EIGENVALUES),
        loss,
        sharpness,
        critical.get("central", next(iter(critical.values()), None)),
        [],
    )


def _joined(tables: list[dict[str, np.ndarray]], columns: Sequence[Column]) -> dict[str, np.ndarray]:
    """Tables one after the other, then by step, so that the order of rows tells nothing of the chunks."""
    if not tables:
        return {c.name: np.zeros(0, object if c.type == "string" else c.type) for c in columns}
    whole = {c.name: np.concatenate([table[c.name] for table in tables]) for c in columns}
    order = np.argsort(whole["step"], kind="stable")
    return {name: values[order] for name, values in whole.items()}


def _long(
    process: str, kind: str, steps: np.ndarray, values: np.ndarray, places: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """A (rows, m) block of values as rows of the long table, missing ones left out; ``places`` are their indices."""
    row, index = np.nonzero(~np.isnan(values))
    return {
        "step": steps[row].astype(np.int32),
        "process": np.full(len(row), process, dtype=object),
        "kind": np.full(len(row), kind, dtype=object),
        "index": (index if places is None else places[index]).astype(np.int32),
        "value": values[row, index].astype(np.float64),
    }
