"""The stationary preconditioner of RMSProp, a convex program over diagonal matrices.

At fixed weights RMSProp's second moment comes to rest where ν = E[g²] = ∇L² + diag(HΣH) with H ⪯ 2P, P = √ν/η, and Σ
in the null space of 2P − H. These are the optimality conditions of

    P̄ = argmin  tr P + Σ_i c_i²/P_i   over diagonal P ⪰ 0 with H ⪯ 2P,      c = |∇L|/η,

with multiplier Z = 2Σ/η². Its dual has a smooth form without constraints: with Z = ½VVᵀ, c_i √(1 − 2Z_ii) is c_i s_i if
v_i is row i of V and (v_i, s_i) a unit vector, so that

    P̄:  max ½ tr(VᵀHV) + 2 Σ_i c_i s_i   over rows u_i = (v_i, s_i) on the unit sphere,   2P_i = u_iᵀ((HV)_i, 2c_i).

It is solved by L-BFGS in y_i = √P_i u_i, whose length is a preconditioner, with one Hessian-vector product per column
of V and step. V spans the critical directions. Any V is feasible in the dual, and P·max(1, λ_max(P^{-½}HP^{-½})/2) in
the primal problem, so the gap between their values bounds the error whatever the iteration did; it is returned. Where
an eigenvalue exceeds 2 for want of a column, its eigenvector becomes one.

Sources: Cohen et al., arXiv:2410.24206, section 5 (the program); Burer & Monteiro, Math. Program. 95 (2003), for
low-rank multipliers (the unit vectors with s_i are derived here).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from ..curvature.block import combine, gram, random_rows, track

_INNER = 8
_LINE_SEARCH = 12
_MEMORY = 10
_FLOOR = 0.05


class Start(NamedTuple):
    """Where a solution starts from, and what the next one starts from.

    Parameters
    ----------
    unit
        Unit vectors u_i as columns, shape (rank + 1, n); the last row is s.
    p
        P, shape (n,).
    vectors
        Top eigenvectors of P^{-½} H P^{-½}, shape (rank, n).
    """

    unit: Float[Array, "rank_plus_1 params"]
    p: Float[Array, " params"]
    vectors: Float[Array, "rank params"]


class Solution(NamedTuple):
    """Stationary preconditioner and how far from optimal it may be.

    Parameters
    ----------
    p
        P̄, feasible up to the accuracy of λ_max; shape (n,).
    v
        Columns of V as rows, shape (rank, n): Z = ½VVᵀ, Σ = (η²/4)VVᵀ.
    products
        Their products with H.
    gap
        (primal − dual value) / primal value.
    hvps
        Hessian-vector products spent.
    converged
        Whether the gap met the tolerance.
    """

    p: Float[Array, " params"]
    v: Float[Array, "rank params"]
    products: Float[Array, "rank params"]
    gap: Float[Array, ""]
    hvps: Int[Array, ""]
    converged: Bool[Array, ""]


def start(key: Array, rank: int, p: Float[Array, " params"]) -> Start:
    """A random start near a guess of P."""
    n = p.shape[0]
    unit = jax.random.normal(key, (rank + 1, n), p.dtype)
    rows = random_rows(jax.random.fold_in(key, 1), rank, n, p.dtype)
    return Start(unit / jnp.linalg.norm(unit, axis=0), p, rows)


def solve(
    hvp: Callable[[Float[Array, "rank params"]], Float[Array, "rank params"]],
    c: Float[Array, " params"],
    guess: Start,
    tolerance: float,
    max_rounds: int = 60,
) -> tuple[Solution, Start]:
    """Solve min tr P + Σ c²/P over diagonal P with H ⪯ 2P.

    Parameters
    ----------
    hvp
        H on rows, shape (rank, n) to (rank, n).
    c
        |∇L|/η, or zeros for the program without its second term; shape (n,).
    guess
        From :func:`start` or from the solution nearby.
    tolerance
        Of the relative gap.
    max_rounds
        Rounds of 8 L-BFGS steps and one look at the top eigenvectors.

    Notes
    -----
    A weight on which neither gradient nor curvature acts has P_i = 0; it is kept at a small part of the mean, which
    the gap accounts for.
    """
    rank = guess.vectors.shape[0]
    tiny = jnp.finfo(c.dtype).tiny

    def unit(y: Float[Array, "rank_plus_1 params"]) -> Float[Array, "rank_plus_1 params"]:
        return y / jnp.linalg.norm(y, axis=0)

    def floored(p: Float[Array, " params"]) -> Float[Array, " params"]:
        return jnp.maximum(p, _FLOOR * tolerance * jnp.mean(jnp.abs(p)) + tiny)

    def ascend(u: Array, p: Array) -> tuple[Array, Array]:
        """Some steps of L-BFGS from u with the metric P; the new u, and Hessian-vector products spent."""
        size = jnp.sum(p)

        def value(y: Array) -> Array:
            x = unit(y)
            v = x[:rank]
            # ½ tr(VᵀHV) with its gradient HV, for one product per column and no third derivatives.
            fixed = jax.lax.stop_gradient(v)
            products = jax.lax.stop_gradient(hvp(fixed))
            quadratic = jnp.sum((v - fixed / 2) * products)
            return -(quadratic + 2 * c @ x[rank]) / size

        search = optax.scale_by_zoom_linesearch(_LINE_SEARCH, initial_guess_strategy="one")
        method = optax.lbfgs(memory_size=_MEMORY, linesearch=search)
        value_and_grad = optax.value_and_grad_from_state(value)

        def body(_: Array, carry: tuple[Array, optax.OptState, Array]) -> tuple[Array, optax.OptState, Array]:
            y, state, spent = carry
            at, slope = value_and_grad(y, state=state)
            moves, state = method.update(slope, state, y, value=at, grad=slope, value_fn=value)
            spent = spent + state[-1].info.num_linesearch_steps.astype(jnp.int32)
            return optax.apply_updates(y, moves), state, spent

        y = u * jnp.sqrt(p / size)
        none = jnp.zeros((), jnp.int32)
        y, _, spent = jax.lax.fori_loop(0, _INNER, body, (y, method.init(y), none))
        return unit(y), (spent + 1) * rank

    def examine(u: Array, vectors: Array) -> tuple[Solution, Array, Array]:
        """P of the unit vectors, the gap, and the top eigenvectors of P^{-½} H P^{-½}."""
        v, s = u[:rank], u[rank]
        products = hvp(v)
        p = floored((jnp.sum(v * products, axis=0) + 2 * c * s) / 2)
        root = jnp.sqrt(p)
        pairs = track(
            lambda rows: hvp(rows / root) / root,
            vectors,
            above=jnp.inf,
            tolerance=max(tolerance, 1e-4),
            max_iterations=30,
        )
        feasible = p * jnp.maximum(1, pairs.values[0] / 2)
        dual = jnp.sum(v * products) / 2 + 2 * c @ s
        primal = jnp.sum(feasible + c**2 / feasible)
        # Rounding, and a λ_max that is not fully converged, may make it negative.
        gap = jnp.maximum((primal - dual) / primal, 0)
        spent = pairs.hvps + rank
        return Solution(feasible, v, products, gap, spent, gap <= tolerance), pairs.vectors, pairs.values[0]

    def escape(u: Array, p: Array, vectors: Array, highest: Array) -> Array:
        """Put the top eigenvector in the place of the weakest column, if V misses it."""
        v = u[:rank]
        weighted = v * jnp.sqrt(p)
        _, basis = jnp.linalg.eigh(gram(weighted, weighted))
        turned = combine(basis.T, v)
        new = vectors[0] / jnp.sqrt(p)
        # As small as the violation: near the solution it is that of an iteration still under way.
        size = jnp.sqrt(jnp.clip(highest / 2 - 1, 0, 1))
        new = jnp.clip(size / 3 * new / jnp.sqrt(jnp.mean(new**2)), -1, 1)
        return unit(u.at[:rank].set(turned.at[0].add(new)))

    def go_on(carry: tuple[Any, ...]) -> Array:
        return ~carry[2].converged & (carry[-1] <= max_rounds)

    def body(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        u, vectors, found, highest, spent, rounds = carry
        # The first look may find the guess good enough.
        u, cost = jax.lax.cond(
            rounds > 0,
            lambda: ascend(escape(u, found.p, vectors, highest), found.p),
            lambda: (u, jnp.zeros((), jnp.int32)),
        )
        now, vectors, highest = examine(u, vectors)
        # The multipliers of a far guess say nothing about P.
        now = now._replace(p=jnp.where(now.gap < 0.5, now.p, found.p))
        return u, vectors, now, highest, spent + cost + now.hvps, rounds + 1

    zero, one = jnp.zeros((), jnp.int32), jnp.ones((), c.dtype)
    nothing = jnp.zeros_like(guess.vectors)
    unknown = Solution(guess.p, nothing, nothing, one, zero, jnp.asarray(False))
    u, vectors, found, _, spent, _ = jax.lax.while_loop(
        go_on, body, (guess.unit, guess.vectors, unknown, 2 * one, zero, zero)
    )
    return found._replace(hvps=spent), Start(u, found.p, vectors)
