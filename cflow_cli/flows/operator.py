"""The central flow where D is an operator: of optimizers with norms, matrices or layers in their update.

The equations are those of :mod:`cflow_cli.flows.central` without D^½ and D⁻¹; D and averages are those of
:mod:`cflow_cli.optimizers.operator_map`. Critical directions are pairs (z, u = Dz), H u = λ z, ZᵀU = I, with the
oscillating gradients G = HU; and no effective eigenvalue above 2 at the end of the step is

    diag(2 − λ) + 2((ZᵀD'(X)Z)⁻¹ − I) − N·Δw(X) ⪰ 0,

to first order the 2Uᵀ(D'⁻¹ − D⁻¹)U of a diagonal D. A map without memory, as g/‖g‖, has its D' of X at once, so that
the conditions are linearised again until X stays. What D was made of at the end of a step is kept for the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cflow_cli.curvature import pencil
from cflow_cli.curvature.block import RitzPairs, combine, gram
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.flows import sdcp
from cflow_cli.flows.base import (
    FlowState,
    Oscillation,
    StepInfo,
    damping,
    descent,
    has_jumped,
    status_of,
    with_counters,
)
from cflow_cli.flows.stable import mean_gradient_along, num_stages
from cflow_cli.flows.third_derivatives import Directions, ThirdDerivatives, differentiate
from cflow_cli.optimizers.operator_map import Held, OperatorMap
from cflow_cli.problem import Linearization, Problem

# X of a map with memory is found by one linearisation, of one without by two to four.
_MOST_LINEARISATIONS = 6


class Memory(NamedTuple):
    """What a step leaves to the next.

    Parameters
    ----------
    held
        What D was made of at its end.
    known
        Whether there was a step before.
    vectors, x
        Its critical directions u, zero beyond them, and X: a guess for the next; shapes (block, n), (block, block).
    """

    held: Held
    known: Bool[Array, ""]
    vectors: Float[Array, "block params"]
    x: Float[Array, "block block"]


class _Move(NamedTuple):
    after: Any
    delta: Float[Array, " params"]
    held: Held
    x: Float[Array, "block block"]
    variance: Float[Array, " params"]
    residual: Float[Array, ""]
    solved: Bool[Array, ""]


class OperatorStepper(eqx.Module):
    """A whole step of the central flow, or of the stable flow where ``state.oscillates`` is false.

    Parameters
    ----------
    optimizer
        The update map whose average is followed.
    eigs
        How eigenvalues are tracked.
    pair_batch, penalty
        As in :class:`cflow_cli.flows.central.CentralStepper`.
    """

    optimizer: OperatorMap
    eigs: EigsOptions = eqx.field(static=True)
    pair_batch: int = eqx.field(static=True)
    penalty: bool = eqx.field(static=True, default=True)

    def start(self, weights: Float[Array, " params"], block: int) -> Memory:
        """Nothing is known of D before the first step."""
        n, dtype = weights.shape[0], weights.dtype
        nothing, x = jnp.zeros((block, n), dtype), jnp.zeros((block, block), dtype)
        return Memory(self.optimizer.nothing_held(), jnp.asarray(False), nothing, x)

    def __call__(
        self, problem: Problem, state: FlowState, counters: Any, iterations: Int[Array, ""]
    ) -> tuple[FlowState, StepInfo]:
        """Take one step; see :class:`cflow_cli.flows.base.Stepper`."""
        optimizer, w, edge = self.optimizer, state.weights, self.eigs.critical_above
        linear = problem.linearize(w)
        before = with_counters(optimizer, state.optimizer, counters)
        held = jax.lax.cond(
            state.memory.known,
            lambda: state.memory.held._replace(clock=optimizer.clock_of(before)),
            lambda: optimizer.held(before, linear.gradient, w),
        )
        pairs = pencil.track(
            linear.hvp,
            lambda rows: optimizer.response(held, rows)[0],
            state.vectors,
            above=jnp.where(state.oscillates, self.eigs.track_above, jnp.inf),
            critical=edge,
            tolerance=self.eigs.tolerance,
            max_iterations=iterations,
        )
        critical = jnp.where(state.oscillates, jnp.sum(pairs.values > edge), 0)
        stages = jnp.where(state.oscillates, 1, num_stages(pairs.values[0], edge))
        directions = Directions(pairs.vectors, jnp.ones(1, w.dtype), critical, pairs.values)
        third = differentiate(problem, w, directions, self.pair_batch)

        def smooth(_: None) -> _Move:
            gradient = mean_gradient_along(
                problem, w, linear.gradient, lambda g: optimizer.response(held, g[None])[0][0], stages
            )
            after, delta, ahead = optimizer.averaged(before, gradient, w)
            zero = jnp.zeros((), w.dtype)
            nothing = jnp.zeros_like(state.x)
            return _Move(after, delta, ahead, nothing, jnp.zeros_like(w), zero, jnp.asarray(True))

        def oscillating(_: None) -> _Move:
            frame = _Frame(optimizer, w, linear, before, held, pairs, third, critical, self.penalty)
            return frame.solved(state.memory)

        move = jax.lax.cond(critical > 0, oscillating, smooth, None)
        oscillation = Oscillation(
            x=move.x,
            loss=linear.loss + jnp.sum(pairs.values * jnp.diag(move.x)) / 2,
            grad_norm_sq=linear.gradient @ linear.gradient + jnp.sum(move.variance),
            gradient_variance=move.variance,
            residual=move.residual,
        )
        seen = RitzPairs(
            pairs.vectors, pairs.products, pairs.values, pairs.residuals, pairs.hvps, pairs.converged
        )
        info = StepInfo(
            linear=linear,
            pairs=seen,
            preconditioner=jnp.full(1, jnp.nan, w.dtype),
            oscillation=oscillation,
            gradients=jnp.asarray(stages, jnp.int32),
            third_derivatives=third.computed,
            status=status_of(seen, jnp.where(jnp.isfinite(pairs.values), 1, -1), move.solved),
            covectors=pairs.covectors,
        )
        active = (jnp.arange(len(pairs.values)) < critical)[:, None]
        memory = Memory(move.held, jnp.asarray(True), jnp.where(active, pairs.vectors, 0), move.x)
        new = FlowState(w + move.delta, move.after, pairs.ahead, move.x, state.oscillates, memory)
        return new, info


class _Frame(NamedTuple):
    """What is known of a step before X is."""

    optimizer: OperatorMap
    w: Float[Array, " params"]
    linear: Linearization
    before: Any
    held: Held
    pairs: pencil.Pairs
    third: ThirdDerivatives
    critical: Int[Array, ""]
    penalty: bool

    def solved(self, memory: Memory) -> _Move:
        """The step with the X that solves the conditions at its end."""
        k, dtype = len(self.pairs.values), self.w.dtype
        active = jnp.arange(k) < self.critical
        both = active[:, None] & active
        end = self._end(active)
        conditions = self._conditions(end, both)
        turn = gram(self.pairs.covectors, memory.vectors)
        guess = sdcp.pack(jnp.where(both, turn @ memory.x @ turn.T, 0))
        enough = 1e-6 if dtype == jnp.float64 else 1e-4

        def body(carry: tuple[Any, ...]) -> tuple[Any, ...]:
            p, *_, count = carry
            beta, here = jax.jacfwd(conditions, has_aux=True)(p)
            alpha = sdcp.unpack(here - beta @ p, k)
            solution = sdcp.solve(alpha, beta, sdcp.unpack(p, k))
            new = sdcp.pack(jnp.where(both, solution.x, 0))
            moved = jnp.max(jnp.abs(new - p)) > enough * jnp.max(jnp.abs(new))
            return new, solution.residual, solution.converged, moved, count + 1

        def unfinished(carry: tuple[Any, ...]) -> Bool[Array, ""]:
            return carry[3] & (carry[4] < _MOST_LINEARISATIONS)

        first = (guess, jnp.zeros((), dtype), jnp.asarray(True), jnp.asarray(True), jnp.zeros((), jnp.int32))
        p, residual, converged, *_ = jax.lax.while_loop(unfinished, body, first)
        after, delta, held = end(p)
        x, products = sdcp.unpack(p, k), self.pairs.products
        variance = jnp.sum(combine(x, products) * products, axis=0)
        return _Move(after, delta, held, x, variance, residual, converged)

    def _end(self, active: Bool[Array, " k"]) -> Callable[[Array], tuple[Any, Array, Held]]:
        """The average step as a function of packed X: state after it, Δw, and what D is made of then."""
        z, u, products, values, *_ = self.pairs
        k = len(values)
        oscillating = jnp.where(active[:, None], products, 0)
        _, momenta = self.optimizer.response(self.held, oscillating)
        phi = damping(active, values, 1.0)
        half = self.third.packing / 2 if self.penalty else jnp.zeros_like(self.third.packing)

        def end(p: Array) -> tuple[Any, Array, Held]:
            force = self.linear.gradient + combine((p @ half)[None], self.third.rows)[0]
            force = force + combine((phi * (u @ force))[None], z)[0]
            return self.optimizer.averaged(
                self.before, force, self.w, oscillating, sdcp.unpack(p, k), momenta
            )

        return end

    def _conditions(
        self, end: Callable[[Array], tuple[Any, Array, Held]], both: Bool[Array, "k k"]
    ) -> Callable[[Array], tuple[Array, Array]]:
        """What must be positive semidefinite at the end, as a function of X; both packed. Twice, for a Jacobian."""
        z, _, _, values, *_ = self.pairs
        one = jnp.eye(len(values), dtype=self.w.dtype)
        allowed = jnp.diag(jnp.maximum(2 - values, -descent(values)))
        ahead = self._steps_ahead()

        def conditions(p: Array) -> tuple[Array, Array]:
            _, delta, held = end(p)
            held = held._replace(clock=tuple(c + jnp.asarray(ahead, c.dtype) for c in held.clock))
            m = gram(z, self.optimizer.response(held, z)[0])
            m = jnp.where(both, (m + m.T) / 2, one)
            sharper = self.third.packing @ combine(self.third.rows, delta[:, None])[:, 0]
            value = sdcp.pack(allowed + 2 * (jnp.linalg.inv(m) - one)) - sharper
            return value, value

        return conditions

    def _steps_ahead(self) -> Int[Array, ""] | int:
        """By how many steps the learning rate at the end of the step is a later one; none at a jump upwards."""
        if not self.held.clock:
            return 0
        z = self.pairs.covectors[:1]
        later = self.held._replace(clock=tuple(c + 1 for c in self.held.clock))
        grown = jnp.sum(z * self.optimizer.response(later, z)[0]) / jnp.sum(z * self.pairs.vectors[:1])
        return jnp.where(has_jumped(grown), 0, 1)
