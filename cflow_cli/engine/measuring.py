"""Measurements along one process: when each is due, what it brings, and what flows predict for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from cflow_cli.errors import UserError
from cflow_cli.flows.options import Flow
from cflow_cli.measurements.base import PREDICTED, Measured, Measurement, Point, Values
from cflow_cli.records import KINDS, METRICS, Column

# Kinds and columns may have the same name; in a record of the engine kinds have this before it.
KIND = "kind/"
COSTS = ("gradients", "hvps", "third_derivatives")


class Schema(NamedTuple):
    """Columns and kinds that the two tables of a run have."""

    columns: tuple[Column, ...]
    kinds: dict[str, str]


def schema(processes: Sequence[Any], measurements: Sequence[Measurement]) -> Schema:
    """What a run of these processes with these measurements records.

    Parameters
    ----------
    processes
        Options of processes; some flows have columns of their own.
    measurements
        Along each.
    """
    names = [p.name for p in processes]
    flows = any(isinstance(p, Flow) for p in processes)
    columns, kinds = list(METRICS), dict(KINDS)
    for measurement in measurements:
        more, predicted_kinds = measurement.predictions() if flows else ((), {})
        columns += [*measurement.columns_for(names), *more]
        kinds |= {**measurement.kinds, **predicted_kinds}
    for process in processes:
        columns += getattr(process, "columns", ())
    return Schema(tuple({c.name: c for c in columns}.values()), kinds)


def indices(measurements: Sequence[Measurement], fixed: Sequence[Any]) -> dict[str, Any]:
    """What the entries of each kind are called, where they do not count from 0."""
    named = {
        kind: measurement.indices(kind.removeprefix(PREDICTED), own)
        for measurement, own in zip(measurements, fixed, strict=True)
        for kind in (*measurement.kinds, *measurement.predictions()[1])
    }
    return {kind: places for kind, places in named.items() if places is not None}


def start(measurements: Sequence[Measurement], problem: Any, rows: Array) -> tuple[Any, ...]:
    """Memories of the first evaluations along a process."""
    return tuple(m.start(problem, rows) for m in measurements)


def measure(
    measurements: Sequence[Measurement],
    point: Point,
    fixed: Sequence[Any],
    memories: Sequence[Any],
    last_step: Int[Array, ""],
    known: Mapping[str, Any],
) -> tuple[dict[str, Array], tuple[Any, ...]]:
    """Evaluate what is due at a point.

    Parameters
    ----------
    measurements, fixed, memories
        Which, what each holds for the whole run, and from its evaluation before.
    point
        Where.
    last_step
        Of the run.
    known
        Columns that the process itself has: they are not measured again.

    Returns
    -------
    record
        Columns by name, kinds with :data:`KIND` before it, and what was spent by the names of :data:`COSTS`.
    memories
        For the next.
    """
    record: dict[str, Any] = dict.fromkeys(COSTS, 0)
    after = []
    for measurement, own, memory in zip(measurements, fixed, memories, strict=True):
        if measurement.compares or any(c.name in known for c in measurement.columns):
            after.append(memory)
            continue
        measured = _if_due(measurement, point, own, memory, last_step)
        after.append(measured.memory)
        for cost in COSTS:
            record[cost] += getattr(measured, cost)
        record |= {KIND + name if jnp.ndim(value) else name: value for name, value in measured.values.items()}
    return record, tuple(after)


def _if_due(
    measurement: Measurement, point: Point, fixed: Any, memory: Any, last_step: Int[Array, ""]
) -> Measured:
    """The evaluation, or NaN and the memory as it was."""

    def evaluate(memory: Any) -> Measured:
        measured = measurement(point, fixed, memory)
        values: Values = dict(measured.values)
        _check_declared(measurement, values)
        if measurement.predicted and point.oscillation is not None:
            averages = measurement.predict(point, fixed, measured.values)
            values |= {PREDICTED + name: value for name, value in averages.items()}
        costs = {cost: jnp.asarray(getattr(measured, cost), jnp.int32) for cost in COSTS}
        return measured._replace(values=values, **costs)

    wanted: Any = True
    if measurement.optimizer_only:
        wanted = wanted & point.is_optimizer
    if measurement.oscillating_only:
        wanted = wanted & point.oscillates
    if wanted is False:
        return Measured({}, memory)
    interval = measurement.interval(point.optimizer)
    if wanted is True and interval == 1:
        return evaluate(memory)
    shapes = jax.eval_shape(evaluate, memory)

    def skip(memory: Any) -> Measured:
        nothing = jax.tree.map(lambda a: jnp.full(a.shape, jnp.nan, a.dtype), shapes.values)
        zero = jnp.zeros((), jnp.int32)
        return Measured(nothing, memory, zero, zero, zero)

    count = point.age if measurement.from_branch_point else point.step
    due = count % interval == 0
    if measurement.at_end:
        due = due | (point.step == last_step)
    return jax.lax.cond(due & wanted, evaluate, skip, memory)


def _check_declared(measurement: Measurement, values: Values) -> None:
    """Refuse a value that no column or kind is there for: it would be lost without a word."""
    columns = {column.name for column in measurement.columns}
    for name, value in values.items():
        if jnp.ndim(value) == 0 and name not in columns:
            raise UserError(
                f"the measurement {measurement.name} gives the number {name!r}, which is none of its columns; "
                f"it declares {', '.join(sorted(columns)) or 'none'}"
            )
        if jnp.ndim(value) and (jnp.ndim(value) > 1 or name not in measurement.kinds):
            raise UserError(
                f"the measurement {measurement.name} gives {name!r} of shape {jnp.shape(value)}; lists of numbers are "
                f"kinds, and it declares {', '.join(sorted(measurement.kinds)) or 'none'}"
            )
