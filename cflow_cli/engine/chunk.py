"""The compiled loop over a chunk of steps of any process."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from cflow_cli.engine import measuring
from cflow_cli.engine.discrete import Trajectory
from cflow_cli.engine.processes import NEW_BLOCK_ITERATIONS, Context, Record, Reference
from cflow_cli.problem import Problem
from cflow_cli.records import Status


class State(NamedTuple):
    """State of a process and of the measurements along it."""

    process: Any
    memories: tuple[Any, ...]


Carry = tuple[State, Record, Array, Array, Array, Array]


class ChunkResult(NamedTuple):
    """State after a chunk, its records (one row per step; rows from ``done`` on are unused), and why it ended."""

    state: State
    records: Record
    done: Int[Array, ""]
    grow: Bool[Array, ""]
    divide: Bool[Array, ""]
    stopped: Bool[Array, ""]


@eqx.filter_jit
def run_chunk(
    process: Any,
    problem: Problem,
    context: Context,
    state: State,
    path: Trajectory,
    first: Int[Array, ""],
    start: Int[Array, ""],
    stop: Int[Array, ""],
    settled: Int[Array, ""],
) -> ChunkResult:
    """Step ``process`` along rows ``start`` to ``stop`` of the discrete run's path.

    Parameters
    ----------
    process, problem, context, state
        What is stepped.
    path
        The discrete run, whose first row is step ``first``.
    first
        Step of row 0.
    start, stop
        Rows to go from and to; ends earlier at a status that stops, or before a step for which the block of
        tracked directions is too small (``grow``), or after one that shows that steps are too long (``divide``).
    settled
        Step from which the eigenvectors only have to follow; before it a new block may take many iterations.
    """
    rows = path.weights.shape[0] - 2  # there is one iterate before the first step and one after the last
    block = process.rows(state.process).shape[0]
    full = block >= process.eigs.max_tracked

    def reference(r: Array) -> Reference:
        return Reference(
            step=first + r,
            before=path.weights[r],
            weights=path.weights[r + 1],
            after=path.weights[r + 2],
            step_size=jax.tree.map(lambda a: a[r], path.step_size),
            moments=tuple(m[r] for m in path.moments),
            iterations=jnp.where(first + r < settled, NEW_BLOCK_ITERATIONS, process.eigs.max_iterations),
        )

    def step(state: State, r: Array) -> tuple[State, Record]:
        new, record, point = process.step(problem, context, state.process, reference(r))
        measured, memories = measuring.measure(
            process.measurements, point, context.fixed, state.memories, context.last_step, record
        )
        for cost in measuring.COSTS:
            measured[cost] = jnp.asarray(record.get(cost, 0) + measured[cost], jnp.int32)
        return State(new, memories), record | measured

    shapes = jax.eval_shape(lambda: step(state, start)[1])
    empty = jax.tree.map(lambda a: jnp.zeros((rows, *a.shape), a.dtype), shapes)

    def body(carry: Carry) -> Carry:
        state, records, r, *_ = carry
        new, record = step(state, r)
        short = process.follows_all(state.process) & (
            record["num_tracked"] > block - process.eigs.guard_vectors
        )
        healthy = record["status"] < Status.DIVERGED
        grow = short & healthy & (not full)
        if full and process.stops_when_full:
            record["status"] = jnp.where(short & healthy, Status.TOO_MANY_TRACKED, record["status"])
        after = jax.lax.cond(
            grow,
            lambda old, tried: process.retaining(old, tried),
            lambda _, tried: tried,
            state.process,
            new.process,
        )
        records = jax.tree.map(lambda buffer, value: buffer.at[r].set(value), records, record)
        stopped = record["status"] >= Status.DIVERGED
        divide = process.strained(after) & ~grow
        return State(after, new.memories), records, jnp.where(grow, r, r + 1), grow, divide, stopped

    def go_on(carry: Carry) -> Bool[Array, ""]:
        _, _, r, grow, divide, stopped = carry
        return (r < stop) & ~grow & ~divide & ~stopped

    false = jnp.asarray(False)
    return ChunkResult(*jax.lax.while_loop(go_on, body, (state, empty, start, false, false, false)))
