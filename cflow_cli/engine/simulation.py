"""The optimizer and its flows in lock-step, in compiled chunks of steps.

Knows nothing of configs, files or terminals: give it a :class:`~cflow_cli.problem.Problem` and an optax optimizer. The
loop, one chunk at a time::

    while simulation.step < steps:
        discrete, path = take_steps(problem, optimizer, discrete, count)  # the optimizer, as optax has it
        for process in processes:                                                 # side by side, in threads
            state, records = run_chunk(process, problem, context, state, path)    # beside the same path
            # again with a larger block of eigenvectors, from the step for which it had become too small
        yield recorder.chunk(records)                                             # rows of the two tables
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jaxtyping import Array

from cflow_cli.computing import agreed, beside, keep_programs
from cflow_cli.curvature.block import random_rows
from cflow_cli.engine import measuring, memory
from cflow_cli.engine.caches import make_room
from cflow_cli.engine.discrete import DiscreteState, Trajectory, bytes_per_row, steps_of
from cflow_cli.engine.making import fit_to, process_of
from cflow_cli.engine.naming import arrays_by_name, filled, moved_to
from cflow_cli.engine.options import Discrete, SimulationOptions
from cflow_cli.engine.processes import Context, Process
from cflow_cli.engine.recording import Chunk, Recorder
from cflow_cli.engine.running import Part, Running
from cflow_cli.engine.snapshot import Snapshot, Start
from cflow_cli.errors import UserError
from cflow_cli.measurements.base import Setup
from cflow_cli.optimizers.probing import map_of, update_of
from cflow_cli.problem import Problem
from cflow_cli.records import Column

_T = TypeVar("_T")

# Memory of the path of a chunk, and the longest: what is longer compiles no faster and answers signals late.
_PATH_BYTES = 256 * 2**20
_LONGEST_CHUNK = 50
# The first chunk is short, so that something is seen soon and the pace is known.
_FIRST_CHUNK = 4
# A signal is answered, and a bar moves, at the end of a chunk.
_CHUNK_SECONDS = 1.0
# Steps in which Adam's and RMSProp's second moments come up from zero far enough for D to be finite.
_ADAPTIVE_WARM_START = 5


class Simulation:
    """The optimizer and the processes beside it; iterate over it to run, chunk by chunk.

    Parameters
    ----------
    problem
        The training loss; its ``w0`` fixes start and precision.
    optimizer
        Any optax ``GradientTransformation``, learning rate included.
    options
        All other settings.
    learning_rate
        Number or schedule, only for the ``learning_rate`` column.
    start
        Where to start instead of the problem's ``w0``. The optimizer's state is taken over where it has the same form,
        as :attr:`takes_over` then says.
    keep_rows
        Whether :attr:`metrics` and :attr:`eigenvalues` have all rows; False leaves them to whoever takes the chunks,
        and memory does not grow.
    **changes
        Fields of :class:`~cflow_cli.engine.options.SimulationOptions`, instead of or on top of ``options``.

    Raises
    ------
    UserError
        If an option is out of range, a process unknown, or a flow is asked of an optimizer that has none.
    """

    def __init__(
        self,
        problem: Problem,
        optimizer: optax.GradientTransformation,
        options: SimulationOptions | None = None,
        *,
        learning_rate: float | Callable[[Any], Any] | None = None,
        start: Start | None = None,
        keep_rows: bool = True,
        **changes: Any,
    ) -> None:
        self.options = options = replace(options or SimulationOptions(), **changes)
        make_room()
        keep_programs()
        with beside(problem.w0):
            self._set_up(problem if start is None else moved_to(problem, start), optimizer, start)
        self.schema = measuring.schema(self.options.processes, self.options.measurements)
        fixed = jax.tree.map(np.asarray, self.context.fixed)
        indices = measuring.indices(self.options.measurements, fixed)
        self._recorder = Recorder(self.schema, indices, learning_rate)
        self.learning_rate = learning_rate
        self._keep_rows, self._chunks = keep_rows, list[Chunk]()

    # --- setting up ---------------------------------------------------------------------------------

    def _set_up(self, problem: Problem, optimizer: optax.GradientTransformation, start: Start | None) -> None:
        """All that is computed before the first step."""
        options, self.problem = self.options, problem
        self.optimizer = map_of(optimizer, problem.w0, problem.unravel)
        self._take_steps = steps_of(update_of(optimizer, self.optimizer))
        self._check_flows()
        self.discrete, self.takes_over = self._begin(start)
        self.warm_start = self._warm_start()
        self.eigs = fit_to(options.eigs, problem.num_parameters)
        self._least_block: int = self.eigs.block  # type: ignore[assignment]  # filled in by fit_to
        self._rows = options.chunk or _chunk_length(problem, self.optimizer, options.steps)
        self._pace = min(_FIRST_CHUNK, self._rows)
        self._plan_memory()
        problem = self.problem
        kick_seed = options.seed if options.kick_seed is None else options.kick_seed
        self._kick_key = jax.random.split(jax.random.PRNGKey(kick_seed), 3)[0]
        _, self._block_key, probe_key = jax.random.split(jax.random.PRNGKey(options.seed), 3)
        loss, gradient = _at_start(problem)
        setup = Setup(problem, self.optimizer, self.eigs, np.asarray(gradient), options.seed)
        fixed = tuple(m.prepare(setup) for m in options.measurements)
        self.context = Context(
            initial_loss=loss,
            probe=random_rows(probe_key, 1, problem.num_parameters, problem.w0.dtype)[0],
            last_step=jnp.asarray(options.steps - 1, jnp.int32),
            branch_step=jnp.asarray(self.warm_start, jnp.int32),
            fixed=jax.tree.map(jnp.asarray, fixed),
        )
        self._running = {
            p.name: Running(p, self._process(p, True), substeps=p.substeps if p.is_flow else 0)
            for p in options.processes
        }

    def _plan_memory(self) -> None:
        """Take derivatives in batches that fit, where it is known what does."""
        self.memory = memory.plan(
            self.problem,
            block=self._least_block,
            largest=self.eigs.max_tracked,
            processes=len(self.options.processes) if self.problem.num_devices == 1 else 1,
            path=self._rows * bytes_per_row(self.optimizer, self.problem.w0),
            memory_gib=self.options.memory_gib,
        )
        alone = self.problem.w0.is_fully_addressable
        self._in_turn = not alone or (self.memory is not None and self.memory.in_turn)
        if self.memory is not None:
            self.problem = self.problem.in_batches(self.memory.at_once, self.memory.examples)

    def _check_flows(self) -> None:
        flows = [p.name for p in self.options.processes if p.is_flow]
        if self.optimizer.refusal and flows:
            raise UserError(
                f"no {' or '.join(flows)} flow for this optimizer: {self.optimizer.refusal}; "
                "run it with processes=[discrete]"
            )

    def _begin(self, start: Start | None) -> tuple[DiscreteState, bool]:
        """The optimizer before its first step, and whether its state was taken over."""
        w = self.problem.w0
        state, taken = self.optimizer.init(w), None
        if start is not None:
            taken = filled(state, start.optimizer)
        before = w if start is None else jnp.asarray(start.before, w.dtype)
        return DiscreteState(
            before, w, state if taken is None else taken, jnp.zeros((), jnp.int32)
        ), taken is not None

    def _warm_start(self) -> int:
        if self.options.warm_start is not None:
            return self.options.warm_start
        least = _ADAPTIVE_WARM_START if self.optimizer.adaptive and not self.takes_over else 0
        # A shorter run has no flow; continued with more steps, it has those of a run that was never interrupted.
        return min(least, self.options.steps)

    def _process(self, kind: Any, divisible: bool) -> Process[Any]:
        return process_of(kind, self.problem, self.optimizer, self.eigs, self.options, divisible)

    @property
    def form(self) -> Hashable:
        """Equal for simulations that step the same compiled programs, whatever their numbers are."""
        leaves, structure = jax.tree.flatten((self.problem, self.processes))
        return structure, tuple((a.shape, str(a.dtype)) for a in leaves), self._rows

    # --- what there is to see -----------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Optimizer steps taken so far."""
        return int(self.discrete.step)

    @property
    def steps(self) -> int:
        """Optimizer steps wanted."""
        return self.options.steps

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of the metrics."""
        return self.schema.columns

    @property
    def kinds(self) -> dict[str, str]:
        """Kinds of the long table and their meaning."""
        return self.schema.kinds

    @property
    def processes(self) -> dict[str, Process[Any]]:
        """What is stepped, by name."""
        return {name: run.process for name, run in self._running.items()}

    @property
    def states(self) -> dict[str, Any]:
        """State of each process that has begun, with the memories of the measurements along it."""
        return {name: run.state for name, run in self._running.items() if run.state is not None}

    @property
    def blocks(self) -> dict[str, int]:
        """Eigenvectors that each process follows."""
        return {name: run.block for name, run in self._running.items() if run.state is not None}

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Gradients, Hessian-vector products and third derivatives spent per process."""
        return {name: dict(run.counts) for name, run in self._running.items()}

    @property
    def statuses(self) -> dict[str, dict[str, Any]]:
        """How each process stands: status, the step of its end if it stopped, steps with each complaint, a sentence."""
        return {name: run.standing() for name, run in self._running.items()}

    @property
    def metrics(self) -> pd.DataFrame:
        """One row per step and process so far; columns as :attr:`columns`. ValueError without ``keep_rows``."""
        return self._recorder.frame("metrics", self._kept())

    @property
    def eigenvalues(self) -> pd.DataFrame:
        """Long: step, process, kind, index, value; kinds as :attr:`kinds`. ValueError without ``keep_rows``."""
        return self._recorder.frame("eigenvalues", self._kept())

    def _kept(self) -> list[Chunk]:
        if not self._keep_rows:
            raise ValueError("this simulation was made not to keep its rows: they are only in its chunks")
        return self._chunks

    def weights(self) -> dict[str, np.ndarray]:
        """Weights that the optimizer and each flow have reached."""
        own = {name: run.weights for name, run in self._running.items() if run.state is not None}
        own |= {Discrete.name: self.discrete.weights}
        return {name: np.asarray(w) for name, w in own.items() if w is not None}

    # --- running ------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Chunk]:
        """Run to the end, yielding after each chunk; leaving the loop early leaves everything consistent."""
        # Devices that exchange sums must be given all programs in one order.
        at_once = len(self._running) if self.problem.num_devices == 1 else 1
        # One more for the chunk as a whole: where the main thread compiled, it would hear no signal until the end.
        threads = ThreadPoolExecutor(max_workers=at_once + 1)
        wait = True
        try:
            while self.step < self.steps:
                yield threads.submit(self._beside_data, self._advance, threads).result()
        except KeyboardInterrupt:
            wait = False  # XLA's compiler cannot be stopped
            raise
        finally:
            threads.shutdown(wait=wait, cancel_futures=True)

    def _beside_data(self, function: Callable[..., _T], *args: Any, **settings: Any) -> _T:
        """What JAX is told of a device and of precision holds in one thread."""
        with beside(self.problem.w0):
            return function(*args, **settings)

    def _advance(self, threads: ThreadPoolExecutor) -> Chunk:
        began, first, begin, said = time.monotonic(), self.step, self.discrete, list[str]()
        count = self._next_count(first)
        self.discrete, path = self._in_memory(partial(self.take_path, self._rows, count), first, None, said)
        for run in self._running.values():
            if run.state is None and (not run.kind.branches or first >= self.warm_start):
                run.begin(self._initial(run, begin, self._least_block), first)
        at_work = [r for r in self._running.values() if r.state is not None and not r.status.stops]
        compared = self._compare(at_work, path, first)
        parts = [Part(run, max(run.kind.first_step - first, 0)) for run in at_work]
        advance = partial(self._beside_data, self._advance_process, path=path, first=first, count=count)
        left = parts
        if len(parts) > 1 and not self._in_turn:
            left = [
                part
                for part, had_room in zip(parts, threads.map(memory.with_room(advance), parts))
                if not had_room
            ]
            if left:
                self._in_turn = True
                said.append(f"the device has no memory for all processes at once: in turn from step {first}")
        for part in left:
            self._in_memory(partial(advance, part), first, part, said)
        chunk = self._recorder.chunk(
            first, first + count, [r for part in parts for r in part.records], compared
        )
        chunk.messages.extend([*said, *(m for part in parts for m in part.messages)])
        if self._keep_rows:
            self._chunks.append(chunk)
        seconds = max(time.monotonic() - began, 1e-6) / count
        self._pace = agreed(max(1, min(int(_CHUNK_SECONDS / seconds), self._rows)), self.problem.w0)
        return chunk

    def _in_memory(self, compute: Callable[[], _T], first: int, part: Part | None, said: list[str]) -> _T:
        """What is computed, with smaller batches where the device has no memory for it; sentences on those."""
        while True:
            try:
                return jax.block_until_ready(compute())
            except jax.errors.JaxRuntimeError as error:
                if not memory.exhausted(error) or not self.problem.w0.is_fully_addressable:
                    raise  # one node alone must not change what all compute
                at, directions = (first, 1) if part is None else (first + part.row, part.run.block)
            self.problem, sentence = memory.less(self.problem, directions, at)
            said.append(sentence)

    def _next_count(self, first: int) -> int:
        """Steps of the next chunk: it ends where flows branch off, at pauses, and where processes are compared."""
        until = self.warm_start if first < self.warm_start else self.steps
        ends = [self._rows, self.options.pause_every or self.steps]
        ends += [m.every for m in self.options.measurements if m.compares]
        return min(self._pace, until - first, *(end - first % end for end in ends))

    def take_path(self, rows: int, count: int) -> tuple[DiscreteState, Trajectory]:
        """The optimizer ``count`` steps on, and its path with room for ``rows``; the simulation itself stays."""
        return self._beside_data(
            self._take_steps,
            replace(self.problem, at_once=None),  # no matter to a gradient, and so none to the compiled loop
            self.optimizer,
            self.discrete,
            rows,
            jnp.asarray(count),
            self._kick_key,
            jnp.asarray(self.options.kick, self.problem.w0.dtype),
            any(m.needs_moments for m in self.options.measurements),
        )

    def _initial(self, run: Running, at: DiscreteState, block: int) -> Any:
        return run.initial(at.weights, at.optimizer, block, self._block_key, self.problem)

    def _advance_process(self, part: Part, path: Trajectory, first: int, count: int) -> None:
        """Step one process on through a chunk, growing its block as often as needed."""
        run = part.run
        while part.row < count:
            result, records = run.advance(self.problem, self.context, path, first, part.row, count)
            if result.done > part.row:
                part.records.append((run.kind.name, records))
            part.row = int(result.done)
            if result.stopped:
                part.messages.append(run.stop(records))
                break
            if result.divide:
                part.messages.append(run.divide(first + part.row))
                run.process = self._process(run.divided_kind, run.divisible)
            if result.grow:
                run.grow(self.eigs, self.problem.num_parameters, first + part.row, self._block_key)
            elif part.row == count and part.records:
                at_boundary = (first + count) % self._rows == 0
                run.shrink_if_roomy(
                    self.eigs, part.records[-1][1], self._block_key, at_boundary, 2 * _LONGEST_CHUNK
                )

    def _compare(
        self, at_work: list[Running], path: Trajectory, first: int
    ) -> dict[str, dict[str, np.ndarray]]:
        """Columns of each process at step ``first`` from the weights of all, where that is due."""
        due = [m for m in self.options.measurements if m.compares and first % m.every == 0]
        if not due:
            return {}
        before, here, after = path.weights[:3]
        weights: dict[str, Array] = {}
        for run in at_work:
            own = run.weights
            if first >= run.kind.first_step:
                seen = (before + 2 * here + after) / 4 if run.kind.switch else here
                weights[run.kind.name] = seen if own is None else own
        columns: dict[str, dict[str, np.ndarray]] = {name: {} for name in weights}
        for measurement in due:
            for name, values in (measurement.across(weights) or {}).items():
                columns[name] |= {key: np.asarray(value) for key, value in values.items()}
        return columns

    # --- going on -----------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The state between two chunks, from which an equal simulation goes on bit for bit."""
        header: dict[str, Any] = {"step": self.step, "processes": {}}
        arrays = arrays_by_name(self.discrete, "discrete")
        for name, run in self._running.items():
            if run.state is not None:
                header["processes"][name] = run.notes()
                arrays |= arrays_by_name(run.state, _prefix(name))
        return Snapshot(header, arrays)

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot of a simulation with the same settings.

        Raises
        ------
        UserError
            If it is not a snapshot of such a simulation.
        """
        self._beside_data(self._restore, snapshot)

    def _restore(self, snapshot: Snapshot) -> None:
        foreign = UserError("the checkpoint does not belong to a run with these settings")
        known = snapshot.header["processes"]
        discrete = filled(self.discrete, snapshot.arrays, "discrete")
        if discrete is None or not set(known) <= set(self._running):
            raise foreign
        self.discrete = discrete
        for name, notes in known.items():
            run = self._running[name]
            form = eqx.filter_eval_shape(lambda: self._initial(run, self.discrete, notes["block"]))  # noqa: B023
            state = filled(form, snapshot.arrays, _prefix(name))
            if state is None:
                raise foreign
            run.restore(state, notes)
            run.process = self._process(run.divided_kind, run.divisible)


@eqx.filter_jit
def _at_start(problem: Problem) -> tuple[Array, Array]:
    return problem.loss(problem.w0), problem.gradient(problem.w0)


def _prefix(name: str) -> str:
    """Of the arrays of a process in a snapshot; "discrete" is the optimizer itself."""
    return "iterates" if name == Discrete.name else name


def _chunk_length(problem: Problem, optimizer: Any, steps: int) -> int:
    return max(1, min(_LONGEST_CHUNK, _PATH_BYTES // bytes_per_row(optimizer, problem.w0), steps))
