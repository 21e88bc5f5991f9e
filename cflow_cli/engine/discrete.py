"""The real optimizer: a plain optax loop, and the path it takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from cflow_cli.optimizers.classify import EVEN
from cflow_cli.optimizers.operator_map import Held, OperatorMap
from cflow_cli.optimizers.update_map import UpdateMap
from cflow_cli.problem import Problem


class DiscreteState(NamedTuple):
    """The real optimizer: the iterate before, the iterate, its optax state, steps taken."""

    before: Float[Array, " params"]
    weights: Float[Array, " params"]
    optimizer: Any
    step: Int[Array, ""]


class Trajectory(NamedTuple):
    """Where the optimizer went in a chunk of steps.

    Parameters
    ----------
    weights
        Iterates, with one row of context before the first step: row 1 + r is step ``first`` + r.
    step_size
        D of each step, shape (rows, n) or (rows, 1), or what an operator is made of; row r is step ``first`` + r.
    moments
        Second moments at the start of each step, as many arrays as the state has; none where no measurement asks.
    """

    weights: Float[Array, "rows params"]
    step_size: Float[Array, "rows params_or_1"] | Held
    moments: tuple[Float[Array, "rows ..."], ...] = ()


def moments_of(optimizer: UpdateMap | OperatorMap, state: Any) -> tuple[Array, ...]:
    """The second moments in a state of the optimizer: its even leaves, where they are of the form of the weights."""
    if optimizer.is_operator:
        return ()
    return tuple(x for x, p in zip(jax.tree.leaves(state), optimizer.parity, strict=True) if p == EVEN)


Steps = Callable[..., tuple[DiscreteState, Trajectory]]


def steps_of(update: Callable[..., Any]) -> Steps:
    """The compiled loop of one optax update, whose programs go when it goes: they serve no other.

    The compiler knows the update's numbers, as it does in a plain optax loop, to which this is equal to the bit. With
    these numbers as arguments Adam's path differs in its last bits.

    Parameters
    ----------
    update
        Of an optax transformation.

    Returns
    -------
    callable
        :func:`run_discrete` with this update.
    """
    rest: dict[Any, Any] = {}

    @partial(jax.jit, static_argnames=("form", "rows", "keep_moments"))
    def compiled(
        arrays: Any, count: Array, key: Array, kick: Array, form: Any, rows: int, keep_moments: bool
    ) -> tuple[DiscreteState, Trajectory]:
        problem, optimizer, state = eqx.combine(arrays, rest[form])
        return run_discrete(problem, update, optimizer, state, rows, count, key, kick, keep_moments)

    def steps(
        problem: Problem,
        optimizer: UpdateMap | OperatorMap,
        state: DiscreteState,
        rows: int,
        count: Array,
        key: Array,
        kick: Array,
        keep_moments: bool = False,
    ) -> tuple[DiscreteState, Trajectory]:
        arrays, static = eqx.partition((problem, optimizer, state), eqx.is_array)
        form = jax.tree.structure(static)
        rest[form] = static
        return compiled(arrays, count, key, kick, form, rows, keep_moments)

    return steps


def run_discrete(
    problem: Problem,
    update: Callable[..., Any],
    optimizer: Any,
    state: DiscreteState,
    rows: int,
    count: Array,
    key: Array,
    kick: Array,
    keep_moments: bool = False,
) -> tuple[DiscreteState, Trajectory]:
    """A plain optax loop of ``count`` ≤ ``rows`` steps, with the path it took (and w_{t−1} before it).

    Parameters
    ----------
    problem, update, optimizer, state
        What is minimised, by which optax update, with which response to an oscillation, and from where.
    rows, count
        Steps that the path has room for, and steps to take.
    key, kick
        Of a Gaussian kick of this norm after each step; none where ``kick`` is 0.
    keep_moments
        Whether the path has the optimizer's second moments.
    """
    n, dtype = state.weights.shape[0], state.weights.dtype
    uniform = optimizer.uniform or optimizer.refusal is not None
    moments = moments_of(optimizer, state.optimizer) if keep_moments else ()
    path = Trajectory(
        jnp.zeros((rows + 2, n), dtype).at[0].set(state.before).at[1].set(state.weights),
        _rows_held(optimizer, rows)
        if optimizer.is_operator
        else jnp.ones((rows, 1 if uniform else n), dtype),
        tuple(jnp.zeros((rows, *m.shape), m.dtype) for m in moments),
    )

    def body(r: Array, carry: tuple[DiscreteState, Trajectory]) -> tuple[DiscreteState, Trajectory]:
        state, path = carry
        gradient = problem.gradient(state.weights)
        delta, new = update(gradient, state.optimizer, state.weights)
        w = optax.apply_updates(state.weights, delta)
        w = jax.lax.cond(
            kick > 0,
            lambda w: w + kick * jax.random.normal(jax.random.fold_in(key, state.step), (n,), dtype) / n**0.5,
            lambda w: w,
            w,
        )
        if isinstance(path.step_size, Held):
            even = optimizer.held(state.optimizer, gradient, state.weights)
            path = path._replace(
                step_size=jax.tree.map(lambda rows, a: rows.at[r].set(a), path.step_size, even)
            )
        elif optimizer.refusal is None:
            d, _ = optimizer.linear_response(new)
            path = path._replace(step_size=path.step_size.at[r].set(d))
        if keep_moments:
            here = zip(path.moments, moments_of(optimizer, state.optimizer), strict=True)
            path = path._replace(moments=tuple(rows.at[r].set(m) for rows, m in here))
        path = path._replace(weights=path.weights.at[r + 2].set(w))
        return DiscreteState(state.weights, w, new, state.step + 1), path

    return jax.lax.fori_loop(0, count, body, (state, path))


def _rows_held(optimizer: Any, rows: int) -> Held:
    """Room for what an operator is made of at so many steps."""
    held: Held = jax.tree.map(lambda a: jnp.zeros((rows, *a.shape), a.dtype), optimizer.nothing_held())
    return held


def bytes_per_row(optimizer: UpdateMap | OperatorMap, w: Array) -> int:
    """Memory that a step takes in a path, but for moments."""
    if isinstance(optimizer, OperatorMap) and optimizer.is_operator:
        held = jax.tree.leaves(jax.eval_shape(optimizer.nothing_held))
        return w.nbytes + sum(a.size * a.dtype.itemsize for a in held)
    return w.nbytes * (1 if optimizer.uniform else 2)
