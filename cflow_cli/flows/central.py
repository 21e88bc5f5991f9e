"""The central flow of any smooth elementwise optimizer.

The state of the optimizer is averaged over its oscillation δ with covariance Σ = U X Uᵀ along the critical directions,
H u = λ D⁻¹ u, UᵀD⁻¹U = I. To second order the average gradient is ∇L + ½∇⟨H, Σ⟩ and the oscillating gradient has
variance diag(HΣH) = diag(G X Gᵀ) per weight, G = HU. X follows from three conditions on the end of the step: X ⪰ 0, no
effective eigenvalue above 2, and complementarity of the two. With no critical direction the step is that of the
stable flow (:mod:`cflow_cli.flows.stable`), and with dt = 1 that of the optimizer.

Sources: Cohen et al., *Understanding Optimization in Deep Learning with Central Flows*, arXiv:2410.24206, for gradient
descent and RMSProp; the form for a general update map, with momentum, is derived in the documentation (concepts).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..curvature.block import (
    Cut,
    RitzPairs,
    combine,
    gram,
    in_slices,
    kept,
    overlaps,
    preconditioned,
    track,
    uncut,
)
from ..optimizers.update_map import UpdateMap
from ..problem import Problem
from . import sdcp
from .base import FlowState, FlowStep, Oscillation, damping, status_of, with_counters
from .stable import mean_gradient, num_stages

# Above the edge (after branching off, at a jump of the rate) the flow comes down gradually, as the optimizer does: a
# unit of time takes away this part of the excess over 2, or this much where that is more.
_DESCENT_RATE = 0.2
_LEAST_DESCENT = 0.1
# A learning rate that grows by this factor in one step jumps.
_JUMP = 1.1
# Numbers of critical directions that the algebra of a step is compiled for, besides that of the whole block. It takes
# time like their fourth power, and each number some seconds to compile: those near the block's are left out.
_ROOMS = (3, 5, 8)
# Part of a critical direction, squared, that may lie outside the span of those whose third derivatives are to serve it.
_OUTSIDE = 0.003


class Thirds(NamedTuple):
    """Third derivatives that serve several steps.

    Parameters
    ----------
    rows
        M(u_i) and M(u_i + u_j) where they were computed, in the order of :func:`sdcp.pairs`; shape (pairs, n).
    vectors, inverse
        D^-½u_i of the critical directions there, zero for the others, and D^-½; shapes (block, n) and (n,) or (1,).
    age
        Steps since then.
    """

    rows: Float[Array, "pairs params"]
    vectors: Float[Array, "block params"]
    inverse: Float[Array, " params_or_1"]
    age: Int[Array, ""]


class CentralStepper(eqx.Module):
    """The step of the central flow over a time dt, or of the stable flow where ``state.oscillates`` is false.

    Parameters
    ----------
    optimizer
        The update map whose average is followed.
    dt
        Part of an optimizer step; 1 takes whole steps.
    track_above, critical_above, tolerance
        As in :class:`cflow_cli.options.EigsOptions`.
    pair_batch
        Third derivatives evaluated together: 1, or 3 where single ones leave the device idle.
    penalty
        False leaves ½∇⟨H, Σ⟩ out of the average gradient: the ablated flow, held at the edge by its second moments.
    damping
        Whether a step along the critical directions is the exponential one; False only to measure what that is for.
    thirds_every
        Sub-steps that third derivatives serve, turned with the critical directions, unless the set of those changes.
    """

    optimizer: UpdateMap
    dt: float = eqx.field(static=True)
    track_above: float = eqx.field(static=True)
    critical_above: float = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)
    pair_batch: int = eqx.field(static=True)
    penalty: bool = eqx.field(static=True, default=True)
    damping: bool = eqx.field(static=True, default=True)
    thirds_every: int = eqx.field(static=True, default=1)

    def start(self, weights: Float[Array, " params"], block: int) -> Thirds | tuple[()]:
        """No memory beyond X, but for third derivatives that are used again."""
        if self.thirds_every == 1:
            return ()
        n, dtype = weights.shape[0], weights.dtype
        rows = jnp.zeros((block * (block + 1) // 2, n), dtype)
        inverse = jnp.zeros(1 if self.optimizer.uniform else n, dtype)
        return Thirds(rows, jnp.zeros((block, n), dtype), inverse, jnp.zeros((), jnp.int32))

    def __call__(
        self, problem: Problem, state: FlowState, counters: Any, iterations: Int[Array, ""]
    ) -> tuple[FlowState, FlowStep]:
        """Take one sub-step; see :class:`cflow_cli.flows.base.Stepper`."""
        w, block = state.weights, state.vectors.shape[0]
        linear = problem.linearize(w)
        d, response = self.optimizer.linear_response(self.optimizer.upcoming(state.optimizer, counters))
        pairs = track(
            preconditioned(linear.hvp, d),
            state.vectors,
            above=jnp.where(state.oscillates, self.track_above, jnp.inf),
            critical=self.critical_above,
            tolerance=self.tolerance,
            max_iterations=iterations,
        )
        root = jnp.sqrt(d)
        critical = jnp.where(state.oscillates, jnp.sum(pairs.values > self.critical_above), 0)
        stages = jnp.where(state.oscillates, 1, num_stages(pairs.values[0] * self.dt, self.critical_above))
        memory, thirds, packing, computed = self._thirds(
            problem, w, pairs.vectors, root, critical, state.memory
        )

        before = with_counters(self.optimizer, state.optimizer, counters)

        def smooth(_: None) -> tuple[Any, ...]:
            gradient = mean_gradient(problem, w, linear.gradient, d, self.dt, stages)
            after, delta = self.optimizer(before, gradient, w)
            after = self.optimizer.part_of_step(before, after, gradient, w, self.dt)
            return (
                after,
                delta,
                jnp.zeros_like(state.x),
                jnp.zeros_like(w),
                jnp.zeros((), w.dtype),
                jnp.asarray(True),
            )

        def oscillating(room: int, _: None) -> tuple[Any, ...]:
            turn = overlaps(pairs.vectors[:room], state.vectors)
            active = jnp.arange(room) < critical
            both = active[:, None] & active[None, :]
            guess = jnp.where(both, turn @ state.x @ turn.T, 0)
            # The averaged map is smooth in X, but its derivative needs some variance to be taken at.
            floor = 1e-4 * jnp.abs(linear.loss) + jnp.finfo(w.dtype).tiny
            guess = guess + jnp.diag(jnp.where(active, floor, 0).astype(w.dtype))
            after, delta, x, *rest = self._solve(
                before,
                w,
                linear.gradient,
                pairs,
                thirds,
                packing,
                root,
                response,
                guess,
                both,
            )
            return after, delta, jnp.zeros_like(state.x).at[:room, :room].set(x), *rest

        # Branches of fixed size: what k directions need is often much less than the algebra of a whole block.
        rooms = [*(room for room in _ROOMS if 4 * room <= 3 * block), block]
        branch = jnp.where(
            critical > 0, 1 + sum((critical > room).astype(jnp.int32) for room in rooms[:-1]), 0
        )
        after, delta, x, variance, residual, solved = jax.lax.switch(
            branch, [smooth, *(partial(oscillating, room) for room in rooms)], None
        )
        found = FlowStep(
            linear=linear,
            pairs=pairs,
            preconditioner=d,
            oscillation=Oscillation(
                x=x,
                loss=linear.loss + jnp.sum(pairs.values * jnp.diag(x)) / 2,
                grad_norm_sq=linear.gradient @ linear.gradient + jnp.sum(variance),
                gradient_variance=variance,
                residual=residual,
            ),
            gradients=stages.astype(jnp.int32),
            third_derivatives=computed,
            status=status_of(pairs, d, solved),
        )
        return FlowState(w + self.dt * delta, after, pairs.ahead, x, state.oscillates, memory), found

    def _thirds(
        self,
        problem: Problem,
        w: Array,
        vectors: Float[Array, "block params"],
        root: Float[Array, " params_or_1"],
        critical: Int[Array, ""],
        memory: Any,
    ) -> tuple[Any, Float[Array, "pairs params"], Float[Array, "pairs pairs"], Int[Array, ""]]:
        """New memory, third derivatives, the N_ij, packed, as combinations of them, and how many were computed."""
        block = len(vectors)
        i, _ = sdcp.pairs(block)
        count = (critical * (critical + 1) // 2).astype(jnp.int32)
        alive = jnp.arange(len(i))[:, None] < count
        packing = jnp.where(alive, jnp.asarray(sdcp.sizes(block)[:, None] * _mixing(block), w.dtype), 0)
        if self.thirds_every == 1:
            buffer = jnp.zeros((len(i), len(w)), w.dtype)
            return (), self._third_derivatives(problem, w, vectors, root, count, buffer), packing, count

        def part(cut: Cut) -> tuple[tuple[Array, Array], None]:
            u = cut(vectors) * (cut(root) * cut(memory.inverse))
            return (gram(u, cut(memory.vectors)), jnp.sum(u**2, axis=1)), None

        active = jnp.arange(block) < critical
        (turn, norms), _ = in_slices(part, len(w), 2 * block)
        turn = jnp.where(active[:, None] & active, turn, 0)
        same = jnp.all((jnp.sum(turn**2, axis=1) > (1 - _OUTSIDE) * norms) | ~active)
        again = same & (memory.age + 1 < self.thirds_every)
        # N is bilinear in the directions.
        turned = jax.vmap(lambda p: sdcp.pack(turn @ sdcp.unpack(p, block) @ turn.T), 1, 1)(packing)
        computed = jnp.where(again, 0, count)
        rows = self._third_derivatives(problem, w, vectors, root, computed, memory.rows)
        here = Thirds(rows, jnp.where(active[:, None], vectors, 0), 1 / root, jnp.zeros((), jnp.int32))
        there = memory._replace(rows=rows, age=memory.age + 1)
        new = jax.tree.map(lambda a, b: jnp.where(again, a, b), there, here)
        return new, rows, jnp.where(again, turned, packing), computed

    def _third_derivatives(
        self,
        problem: Problem,
        w: Array,
        vectors: Float[Array, "block params"],
        root: Float[Array, " params_or_1"],
        count: Int[Array, ""],
        buffer: Float[Array, "pairs params"],
    ) -> Float[Array, "pairs params"]:
        """M(u_i), or M(u_i + u_j), of the first ``count`` pairs in the order of :func:`sdcp.pairs`, put into a buffer.

        u_i is D^½ times row i of ``vectors``, and D^½ the ``root``.
        Derivatives along one direction twice, M(q) = ∇_w(qᵀHq), are up to a third cheaper than along two, and with
        :func:`_mixing` they give those. A loop of as many passes as there are pairs, so that one compiled program
        serves any number of them.
        """
        i, j = (jnp.asarray(a, jnp.int32) for a in sdcp.pairs(vectors.shape[0]))

        def along(p: Array) -> Array:
            q = root * (vectors[i[p]] + jnp.where(i[p] == j[p], 0, vectors[j[p]]))
            return problem.third(w, q, q)

        def fill(p: Array, buffer: Array, size: int) -> Array:
            rows = along(p)[None] if size == 1 else jax.vmap(along)(p + jnp.arange(size))
            return jax.lax.dynamic_update_slice(buffer, rows, (p, jnp.zeros_like(p)))

        first = jnp.zeros_like(count)
        if self.pair_batch > 1 and len(vectors) > 1:
            # k(k+1)/2 is a multiple of three or one more.
            buffer = jax.lax.fori_loop(0, count // 3, lambda t, b: fill(3 * t, b, 3), buffer)
            first = count - count % 3
        return jax.lax.fori_loop(first, count, lambda p, b: fill(p, b, 1), buffer)

    def _solve(
        self,
        before: Any,
        w: Array,
        gradient: Array,
        tracked: RitzPairs,
        thirds: Float[Array, "pairs params"],
        packing: Float[Array, "pairs pairs"],
        root: Float[Array, " params_or_1"],
        response: list[Array],
        guess: Float[Array, "room room"],
        both: Bool[Array, "room room"],
    ) -> tuple[Any, ...]:
        """X from the complementarity conditions on the end of the step, and the step with it.

        A_next(X) = diag(2 − λ) + 2Uᵀ(D'⁻¹ − D⁻¹)U − N·Δw, linearised about the X of the step before. What is as long as
        the weights is passed over as seldom as possible; the rest is algebra of packed matrices.
        """
        k, dtype = guess.shape[0], w.dtype
        values, separate = tracked.values[:k], self.optimizer.separate
        i, j = sdcp.pairs(k)
        packing = packing[: len(i), : len(i)]
        amounts = damping(jnp.diag(both) & self.damping, values, self.dt)
        inverse = 1 / root

        def passing(part: Any, whole: bool = False) -> tuple[Any, Any]:
            return part(uncut) if whole else in_slices(part, len(w), len(i))

        def rows(cut: Cut) -> tuple[Array, Array, Array, Array]:
            """Third derivatives, v, D^½ H D^½ v and D^-½ of some weights."""
            return cut(thirds, len(i)), cut(tracked.vectors, k), cut(tracked.products, k), cut(inverse)

        def along_u(cut: Cut) -> tuple[tuple[Array, Array], None]:
            u = cut(tracked.vectors, k) * cut(root)
            return (gram(cut(thirds, len(i)), u), combine(u, cut(gradient)[:, None])[:, 0]), None

        (third_u, gradient_u), _ = passing(along_u)

        def forces(x: Float[Array, "room room"], cut: Cut) -> tuple[Array, Array]:
            """Average gradient Φ(∇L + ½⟨∇H, Σ⟩) and variance of the oscillating gradient, of some weights."""
            third, v, hv, shrink = rows(cut)
            force, force_u = cut(gradient), gradient_u
            if self.penalty:
                mixed = 0.5 * sdcp.pack(x) @ packing
                force, force_u = force + combine(mixed[None], third)[0], force_u + mixed @ third_u
            # A product with ones, for sums over few long rows are slow.
            variance = combine(jnp.ones((1, k), dtype), combine(x, hv) * hv)[0] * shrink**2
            return force + combine((amounts * force_u)[None], v)[0] * shrink, variance

        def step(optimizer: UpdateMap, cut: Cut, g: Array, variance: Array) -> tuple[Any, Array]:
            at, here = jax.tree.map(cut, before), cut(w)
            after, delta = optimizer.averaged(at, g, variance, here, [cut(r) for r in response])
            return optimizer.part_of_step(at, after, g, here, self.dt), delta

        # The end of the step is where the next one starts, at its learning rate. Not at a jump upwards: from there
        # the flow comes down, as from any start above the edge.
        later, _ = self.optimizer.linear_response(self.optimizer.upcoming(before, before, 1))
        now, _ = self.optimizer.linear_response(self.optimizer.upcoming(before, before))
        ahead = jnp.where(jnp.max(later / now) < _JUMP, 1, 0) if any(self.optimizer.scheduled) else 0

        squares = jnp.where(both[i, j], jnp.asarray(sdcp.sizes(k), dtype), 0)[:, None]
        unit = packing / 2 if self.penalty else jnp.zeros_like(packing)
        unit_u = unit @ third_u * amounts

        def part(cut: Cut) -> tuple[tuple[Array, ...], None]:
            """What some of the weights add to N·Δw and Uᵀ(D'⁻¹ − D⁻¹)U, and to their derivatives by packed X."""
            third, v, hv, shrink = rows(cut)
            optimizer = self.optimizer.of_size(cut(w).shape[0])

            def end(g: Array, variance: Array) -> list[Array]:
                """Δw/dt and, where D can change, the rise D/D' − 1 to the end of the step."""
                after, delta = step(optimizer, cut, g, variance)
                if not optimizer.adaptive:
                    return [delta]
                d, _ = optimizer.linear_response(optimizer.upcoming(after, before, ahead))
                return [delta, jnp.broadcast_to(cut(root) ** 2 / d - 1, g.shape)]

            g, variance = forces(guess, cut)
            (delta, *rise), along = jax.linearize(end, g, variance)
            dg = combine(unit, third) + combine(unit_u, v) * shrink
            dv = squares * hv[i] * hv[j]
            if separate:
                # No weight's state depends on another's: the sums of its rows are all of the derivative.
                one, zero = jnp.ones_like(g), jnp.zeros_like(g)
                slopes = kept([*along(one, zero), *(s * shrink**2 for s in along(zero, one))])
                half = len(slopes) // 2
                d_delta, *d_rise = (
                    a * dg + b * dv for a, b in zip(slopes[:half], slopes[half:], strict=True)
                )
            else:
                d_delta, *d_rise = jax.vmap(along)(dg, dv * shrink**2)
            sums = [combine(third, delta[:, None])[:, 0], gram(third, d_delta)]
            for r, d_r in zip(rise, d_rise, strict=True):
                sums += [combine(v[i] * v[j], r[:, None])[:, 0], gram(v[i] * v[j], d_r)]
            return tuple(sums), None

        (moved, turned, *stiffer), _ = passing(part, whole=not separate)
        descent = jnp.maximum(_LEAST_DESCENT, _DESCENT_RATE * (values - 2)) * self.dt
        start = sdcp.pack(jnp.diag(jnp.maximum(2 - values, -descent))) - self.dt * packing @ moved
        operator = -self.dt * packing @ turned
        if stiffer:
            start = start + 2 * squares[:, 0] * stiffer[0]
            operator = operator + 2 * squares * stiffer[1]
        found = sdcp.solve(sdcp.unpack(start - operator @ sdcp.pack(guess), k), operator, guess)
        x = jnp.where(both, found.x, 0)

        def last(cut: Cut) -> tuple[None, tuple[Any, Array, Array]]:
            g, variance = forces(x, cut)
            after, delta = step(self.optimizer.of_size(cut(w).shape[0]), cut, g, variance)
            return None, (after, delta, variance)

        _, (after, delta, variance) = passing(last, whole=not separate)
        return after, delta, x, variance, found.residual, found.converged


def _mixing(k: int) -> np.ndarray:
    """Coefficients of the N_ij = ∇_w(u_iᵀ H u_j) in the M(q) = ∇_w(qᵀHq): 2N_ij = M(u_i + u_j) − M(u_i) − M(u_j)."""
    i, j = sdcp.pairs(k)
    row = np.arange(len(i))
    mixing = np.zeros((len(i), len(i)))
    mixing[row, row] = np.where(i == j, 1, 0.5)
    for single in (i, j):
        mixing[row, single * (single + 3) // 2] -= np.where(i == j, 0, 0.5)
    return mixing
