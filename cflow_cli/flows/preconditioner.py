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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from cflow_cli.curvature.block import combine, gram, random_rows, track

# Steps of L-BFGS between two looks at the top eigenvectors: a look costs as much as two steps or more, but only it
# finds a column that V lacks.
_STEPS_PER_LOOK = 8
# Trials of its line search: so many bisections leave a 4,000th of an interval, and more would chase rounding.
_MOST_TRIALS = 12
# Steps it remembers: optax's default.
_MEMORY = 10
# Each P_i is at least this part of the tolerance, times the mean of P: tr P grows by a twentieth of the allowed gap.
_FLOOR = 0.05
# Expansions the eigensolver may use in a look; one that is cut short is continued by the next look.
_EIGEN_ITERATIONS = 30
# With a gap of half the value the multipliers of a guess say nothing about P, which then stays.
_WORST_GAP_TO_TRUST = 0.5


class Guess(NamedTuple):
    """Where a solution starts from, and in its turn what the next one starts from.

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


def random_guess(key: Array, rank: int, p: Float[Array, " params"]) -> Guess:
    """A random start near a guess of P."""
    n = p.shape[0]
    unit = jax.random.normal(key, (rank + 1, n), p.dtype)
    rows = random_rows(jax.random.fold_in(key, 1), rank, n, p.dtype)
    return Guess(_normalise(unit), p, rows)


def solve(
    hvp: Callable[[Float[Array, "rank params"]], Float[Array, "rank params"]],
    c: Float[Array, " params"],
    guess: Guess,
    tolerance: float,
    max_rounds: int = 60,
) -> tuple[Solution, Guess]:
    """Solve min tr P + Σ c²/P over diagonal P with H ⪯ 2P.

    Parameters
    ----------
    hvp
        H on rows, shape (rank, n) to (rank, n).
    c
        |∇L|/η, or zeros for the program without its second term; shape (n,).
    guess
        From :func:`random_guess` or from the solution nearby.
    tolerance
        Of the relative gap.
    max_rounds
        Rounds of 8 L-BFGS steps and one look at the top eigenvectors.

    Notes
    -----
    A weight on which neither gradient nor curvature acts has P_i = 0; it is kept at a small part of the mean, which
    the gap accounts for.
    """
    program = _Program(hvp, c, tolerance)

    def unfinished(at: _Round) -> Bool[Array, ""]:
        return ~at.solution.converged & (at.rounds <= max_rounds)

    zero, one = jnp.zeros((), jnp.int32), jnp.ones((), c.dtype)
    nothing = jnp.zeros_like(guess.vectors)
    unknown = Solution(guess.p, nothing, nothing, one, zero, jnp.asarray(False))
    first = _Round(guess.unit, guess.vectors, unknown, 2 * one, zero, zero)
    last = jax.lax.while_loop(unfinished, program.improve, first)
    return last.solution._replace(hvps=last.spent), Guess(last.unit, last.solution.p, last.vectors)


class _Round(NamedTuple):
    """Where the iteration stands: as in :class:`Guess` and :class:`Solution`, the highest eigenvalue, and costs."""

    unit: Float[Array, "rank_plus_1 params"]
    vectors: Float[Array, "rank params"]
    solution: Solution
    highest: Float[Array, ""]
    spent: Int[Array, ""]
    rounds: Int[Array, ""]


class _Program(NamedTuple):
    """The dual program and the steps of its solution."""

    hvp: Callable[[Float[Array, "rank params"]], Float[Array, "rank params"]]
    c: Float[Array, " params"]
    tolerance: float

    def improve(self, at: _Round) -> _Round:
        """One round; the first only looks, as the guess may be good enough."""
        unit, cost = jax.lax.cond(
            at.rounds > 0,
            lambda: self.ascend(
                _with_eigenvector(at.unit, at.solution.p, at.vectors[0], at.highest), at.solution.p
            ),
            lambda: (at.unit, jnp.zeros((), jnp.int32)),
        )
        now, vectors, highest = self.examine(unit, at.vectors)
        now = now._replace(p=jnp.where(now.gap < _WORST_GAP_TO_TRUST, now.p, at.solution.p))
        return _Round(unit, vectors, now, highest, at.spent + cost + now.hvps, at.rounds + 1)

    def ascend(self, unit: Array, p: Array) -> tuple[Array, Int[Array, ""]]:
        """Some steps of L-BFGS from the unit vectors with the metric P; the new ones, and products spent."""
        size, rank = jnp.sum(p), len(unit) - 1

        def value(y: Array) -> Array:
            x = _normalise(y)
            v = x[:rank]
            # ½ tr(VᵀHV) with its gradient HV, for one product per column and no third derivatives.
            fixed = jax.lax.stop_gradient(v)
            products = jax.lax.stop_gradient(self.hvp(fixed))
            quadratic = jnp.sum((v - fixed / 2) * products)
            return -(quadratic + 2 * self.c @ x[rank]) / size

        search = optax.scale_by_zoom_linesearch(_MOST_TRIALS, initial_guess_strategy="one")
        method = optax.lbfgs(memory_size=_MEMORY, linesearch=search)
        value_and_grad = optax.value_and_grad_from_state(value)

        def body(_: Array, carry: tuple[Array, optax.OptState, Array]) -> tuple[Array, optax.OptState, Array]:
            y, state, spent = carry
            at, slope = value_and_grad(y, state=state)
            moves, state = method.update(slope, state, y, value=at, grad=slope, value_fn=value)
            spent = spent + state[-1].info.num_linesearch_steps.astype(jnp.int32)
            return optax.apply_updates(y, moves), state, spent

        y = unit * jnp.sqrt(p / size)
        none = jnp.zeros((), jnp.int32)
        y, _, spent = jax.lax.fori_loop(0, _STEPS_PER_LOOK, body, (y, method.init(y), none))
        return _normalise(y), (spent + 1) * rank

    def examine(self, unit: Array, vectors: Array) -> tuple[Solution, Array, Array]:
        """P of the unit vectors with its gap, and the top eigenvectors and the highest value of P^{-½} H P^{-½}."""
        c, rank = self.c, len(unit) - 1
        v, s = unit[:rank], unit[rank]
        products = self.hvp(v)
        p = self._floor((jnp.sum(v * products, axis=0) + 2 * c * s) / 2)
        root = jnp.sqrt(p)
        pairs = track(
            lambda rows: self.hvp(rows / root) / root,
            vectors,
            above=jnp.inf,
            tolerance=max(self.tolerance, 1e-4),
            max_iterations=_EIGEN_ITERATIONS,
        )
        feasible = p * jnp.maximum(1, pairs.values[0] / 2)
        dual = jnp.sum(v * products) / 2 + 2 * c @ s
        primal = jnp.sum(feasible + c**2 / feasible)
        # Rounding, and a λ_max that is not fully converged, may make it negative.
        gap = jnp.maximum((primal - dual) / primal, 0)
        spent = pairs.hvps + rank
        solution = Solution(feasible, v, products, gap, spent, gap <= self.tolerance)
        return solution, pairs.vectors, pairs.values[0]

    def _floor(self, p: Float[Array, " params"]) -> Float[Array, " params"]:
        tiny = jnp.finfo(p.dtype).tiny
        return jnp.maximum(p, _FLOOR * self.tolerance * jnp.mean(jnp.abs(p)) + tiny)


def _normalise(y: Float[Array, "rank_plus_1 params"]) -> Float[Array, "rank_plus_1 params"]:
    return y / jnp.linalg.norm(y, axis=0)


def _with_eigenvector(unit: Array, p: Array, vector: Array, highest: Array) -> Array:
    """The top eigenvector of P^{-½} H P^{-½} put in the place of the weakest column, if V misses it."""
    v = unit[:-1]
    weighted = v * jnp.sqrt(p)
    _, basis = jnp.linalg.eigh(gram(weighted, weighted))
    turned = combine(basis.T, v)
    new = vector / jnp.sqrt(p)
    # As small as the violation: near the solution it is that of an iteration still under way.
    size = jnp.sqrt(jnp.clip(highest / 2 - 1, 0, 1))
    new = jnp.clip(size / 3 * new / jnp.sqrt(jnp.mean(new**2)), -1, 1)
    return _normalise(unit.at[:-1].set(turned.at[0].add(new)))
