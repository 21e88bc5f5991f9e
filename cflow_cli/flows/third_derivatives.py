"""Third derivatives N_ij = ∇_w(u_iᵀ H u_j) along the critical directions of the central flow.

Derivatives along one direction twice, M(q) = ∇_w(qᵀHq), are up to a third cheaper than along two, and they give those:
2N_ij = M(u_i + u_j) − M(u_i) − M(u_j). They may serve several steps, turned with the directions, N being bilinear; for
how many is seen from the curvature along those, which is found at every step and which they predict.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cflow_cli.curvature.block import combine, gram
from cflow_cli.curvature.slices import Cut, in_slices
from cflow_cli.flows import sdcp
from cflow_cli.problem import Problem

# Part of a critical direction, squared, that may lie outside the span of those whose third derivatives are to serve it:
# three times the square of the eigensolver's tolerance of 3 %, within which directions turn by its error alone.
_LARGEST_PART_OUTSIDE = 0.003

# Where a step sees for itself how long third derivatives serve: by how much the curvature that they predict may miss
# the one found, in effective eigenvalues, and the most steps they serve.
_LARGEST_MISS = 0.003
_MOST_STEPS = 8
# Bytes they may take then, in memory and in each checkpoint; beyond that every step has its own.
_MOST_BYTES = 2**28


class ThirdDerivatives(NamedTuple):
    """The N_ij of the critical directions as combinations of fewer kinds of derivatives.

    Parameters
    ----------
    rows
        M(u_i) and M(u_i + u_j), in the order of :func:`sdcp.pairs`; shape (pairs, n).
    packing
        The N_ij, packed as by :func:`sdcp.pack`, are ``packing @ rows``; shape (pairs, pairs).
    computed
        How many rows were computed for this step.
    """

    rows: Float[Array, "pairs params"]
    packing: Float[Array, "pairs pairs"]
    computed: Int[Array, ""]


class Remembered(NamedTuple):
    """Third derivatives that serve several steps.

    Parameters
    ----------
    rows
        As in :class:`ThirdDerivatives`, where they were computed; shape (pairs, n).
    vectors, inverse
        D^-½u_i of the critical directions there, zero for the others, and D^-½; shapes (block, n) and (n,) or (1,).
    age
        Steps since then.
    weights, values
        w there, and the effective eigenvalues; shapes (n,) and (block,). Of no entries where the number of steps is
        fixed.
    """

    rows: Float[Array, "pairs params"]
    vectors: Float[Array, "block params"]
    inverse: Float[Array, " params_or_1"]
    age: Int[Array, ""]
    weights: Float[Array, " params_or_0"]
    values: Float[Array, " block_or_0"]


class Directions(NamedTuple):
    """Directions of which the first ``critical`` are critical: u_i = D^½v_i.

    Parameters
    ----------
    vectors
        v_i, orthonormal; shape (block, n).
    root
        D^½, shape (n,) or (1,).
    critical
        How many there are.
    values
        Their effective eigenvalues, shape (block,).
    """

    vectors: Float[Array, "block params"]
    root: Float[Array, " params_or_1"]
    critical: Int[Array, ""]
    values: Float[Array, " block"]


def remember_none(
    weights: Float[Array, " params"], block: int, uniform: bool, every: int | None
) -> Remembered | tuple[()]:
    """The memory before the first step, () for none; D has one entry where it is ``uniform``, ``every`` as below."""
    n, dtype = weights.shape[0], weights.dtype
    pairs = block * (block + 1) // 2
    if every == 1 or (every is None and pairs * n * dtype.itemsize > _MOST_BYTES):
        return ()
    rows = jnp.zeros((pairs, n), dtype)
    inverse = jnp.zeros(1 if uniform else n, dtype)
    seen = (0, 0) if every else (n, block)
    return Remembered(
        rows,
        jnp.zeros((block, n), dtype),
        inverse,
        jnp.zeros((), jnp.int32),
        *(jnp.zeros(size, dtype) for size in seen),
    )


def differentiate(problem: Problem, w: Array, directions: Directions, batch: int) -> ThirdDerivatives:
    """The N_ij at w, ``batch`` of them evaluated together: 1 or 3, which is 1 where the problem allows fewer than 3."""
    count, packing = _plan(directions, w.dtype)
    buffer = jnp.zeros((len(packing), len(w)), w.dtype)
    return ThirdDerivatives(_fill(problem, w, directions, count, buffer, batch), packing, count)


def differentiate_or_turn(
    problem: Problem,
    w: Array,
    directions: Directions,
    batch: int,
    memory: Remembered | tuple[()],
    every: int | None,
) -> tuple[Remembered | tuple[()], ThirdDerivatives]:
    """The remembered N_ij for as long as their span holds the critical directions, else anew.

    For ``every`` steps; or, where that is None, while they foretell what curvature is found along the directions, from
    where they were computed: uᵀHu + N·(w' − w). What they miss there is half of what they have changed by since, so a
    small miss is seen before one matters.
    """
    if not isinstance(memory, Remembered):
        return memory, differentiate(problem, w, directions, batch)
    block = len(directions.vectors)
    count, packing = _plan(directions, w.dtype)
    active = jnp.arange(block) < directions.critical
    turn, same = _turn_from(memory, directions, active)
    again = same & (memory.age + 1 < (every or _MOST_STEPS))
    if every is None:
        again = again & (_miss(memory, directions, packing, turn, w) < _LARGEST_MISS)
    # N is bilinear in the directions.
    turned = jax.vmap(lambda p: sdcp.pack(turn @ sdcp.unpack(p, block) @ turn.T), 1, 1)(packing)
    computed = jnp.where(again, 0, count)
    rows = _fill(problem, w, directions, computed, memory.rows, batch)
    vectors = jnp.where(active[:, None], directions.vectors, 0)
    seen = (w, directions.values) if every is None else (memory.weights, memory.values)
    here = Remembered(rows, vectors, 1 / directions.root, jnp.zeros((), jnp.int32), *seen)
    there = memory._replace(rows=rows, age=memory.age + 1)
    new: Any = jax.tree.map(lambda a, b: jnp.where(again, a, b), there, here)
    return new, ThirdDerivatives(rows, jnp.where(again, turned, packing), computed)


def _miss(
    memory: Remembered,
    directions: Directions,
    packing: Float[Array, "pairs pairs"],
    turn: Float[Array, "block block"],
    w: Float[Array, " params"],
) -> Float[Array, ""]:
    """By how much curvatures along the critical directions are not those that the remembered N foretell."""
    moved = w - memory.weights

    def part(cut: Cut) -> tuple[Array, None]:
        return combine(cut(memory.rows), cut(moved)[:, None])[:, 0], None

    along, _ = in_slices(part, len(w), len(packing))
    active = jnp.arange(len(turn)) < directions.critical
    foretold = turn @ (jnp.diag(memory.values) + sdcp.unpack(packing @ along, len(turn))) @ turn.T
    missed = foretold - jnp.diag(directions.values)
    return jnp.max(jnp.where(active[:, None] & active, jnp.abs(missed), 0))


def _plan(directions: Directions, dtype: Any) -> tuple[Int[Array, ""], Float[Array, "pairs pairs"]]:
    """Number of pairs of critical directions, and the packing of their N_ij, zero for all others."""
    block = len(directions.vectors)
    count = (directions.critical * (directions.critical + 1) // 2).astype(jnp.int32)
    packing = sdcp.sizes(block)[:, None] * _mixing(block)
    alive = jnp.arange(len(packing))[:, None] < count
    return count, jnp.where(alive, jnp.asarray(packing, dtype), 0)


def _turn_from(
    memory: Remembered, directions: Directions, active: Bool[Array, " block"]
) -> tuple[Float[Array, "block block"], Bool[Array, ""]]:
    """Coefficients of the critical directions in the remembered ones, and whether these span them."""

    def part(cut: Cut) -> tuple[tuple[Array, Array], None]:
        u = cut(directions.vectors) * (cut(directions.root) * cut(memory.inverse))
        return (gram(u, cut(memory.vectors)), jnp.sum(u**2, axis=1)), None

    block, n = directions.vectors.shape
    (turn, norms), _ = in_slices(part, n, 2 * block)
    turn = jnp.where(active[:, None] & active, turn, 0)
    inside = jnp.sum(turn**2, axis=1) > (1 - _LARGEST_PART_OUTSIDE) * norms
    return turn, jnp.all(inside | ~active)


def _fill(
    problem: Problem,
    w: Array,
    directions: Directions,
    count: Int[Array, ""],
    buffer: Float[Array, "pairs params"],
    batch: int,
) -> Float[Array, "pairs params"]:
    """The first ``count`` rows of :class:`ThirdDerivatives`, put into a buffer.

    A loop of as many passes as there are pairs, so that one compiled program serves any number of them.
    """
    vectors, root = directions.vectors, directions.root
    i, j = (jnp.asarray(a, jnp.int32) for a in sdcp.pairs(vectors.shape[0]))

    def along(p: Array) -> Array:
        q = root * (vectors[i[p]] + jnp.where(i[p] == j[p], 0, vectors[j[p]]))
        return problem.third(w, q, q)

    def fill(p: Array, buffer: Array, size: int) -> Array:
        rows = along(p)[None] if size == 1 else jax.vmap(along)(p + jnp.arange(size))
        return jax.lax.dynamic_update_slice(buffer, rows, (p, jnp.zeros_like(p)))

    first = jnp.zeros_like(count)
    if batch > 1 and len(vectors) > 1 and (problem.at_once or batch) >= batch:
        # k(k+1)/2 is a multiple of three or one more.
        buffer = jax.lax.fori_loop(0, count // 3, lambda t, b: fill(3 * t, b, 3), buffer)
        first = count - count % 3
    return jax.lax.fori_loop(first, count, lambda p, b: fill(p, b, 1), buffer)


def _mixing(k: int) -> np.ndarray:
    """Coefficients of the N_ij in the M(u_i) and M(u_i + u_j); shape (pairs, pairs)."""
    i, j = sdcp.pairs(k)
    row = np.arange(len(i))
    mixing = np.zeros((len(i), len(i)))
    mixing[row, row] = np.where(i == j, 1, 0.5)
    for single in (i, j):
        mixing[row, single * (single + 3) // 2] -= np.where(i == j, 0, 0.5)
    return mixing
