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
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..curvature.block import combine, gram, preconditioned, track
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
# Numbers of critical directions that the algebra of a step is compiled for, besides that of the whole block.
_ROOMS = (3, 8)


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
    """

    optimizer: UpdateMap
    dt: float = eqx.field(static=True)
    track_above: float = eqx.field(static=True)
    critical_above: float = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)
    pair_batch: int = eqx.field(static=True)
    penalty: bool = eqx.field(static=True, default=True)
    damping: bool = eqx.field(static=True, default=True)

    def start(self, weights: Float[Array, " params"]) -> tuple[()]:
        """No memory beyond X."""
        return ()

    def __call__(
        self, problem: Problem, state: FlowState, counters: Any, iterations: Int[Array, ""]
    ) -> tuple[FlowState, FlowStep]:
        """Take one sub-step; see :class:`cflow_cli.flows.base.Stepper`."""
        w, block = state.weights, state.vectors.shape[0]
        linear = problem.linearize(w)
        d, response = self.optimizer.linear_response(self.optimizer.upcoming(state.optimizer, counters))
        root = jnp.sqrt(d)
        pairs = track(
            preconditioned(linear.hvp, d),
            state.vectors,
            above=jnp.where(state.oscillates, self.track_above, jnp.inf),
            critical=self.critical_above,
            tolerance=self.tolerance,
            max_iterations=iterations,
        )
        u, covectors, hu = pairs.vectors * root, pairs.vectors / root, pairs.products / root
        critical = jnp.where(state.oscillates, jnp.sum(pairs.values > self.critical_above), 0)
        stages = jnp.where(state.oscillates, 1, num_stages(pairs.values[0] * self.dt, self.critical_above))
        n_pairs = critical * (critical + 1) // 2
        thirds = self._third_derivatives(problem, w, u, n_pairs)

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
            turn = gram(pairs.vectors[:room], state.vectors)
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
                covectors[:room],
                thirds[: room * (room + 1) // 2],
                n_pairs,
                u[:room],
                jnp.where(active[:, None], hu[:room], 0),
                pairs.values[:room],
                d,
                response,
                guess,
                both,
            )
            return after, delta, jnp.zeros_like(state.x).at[:room, :room].set(x), *rest

        # Branches of fixed size: what k directions need is often much less than the algebra of a whole block.
        rooms = [*(room for room in _ROOMS if room < block), block]
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
                grad_norm_sq=linear.gradient @ linear.gradient + jnp.sum(gram(hu, hu) * x),
                gradient_variance=variance,
                residual=residual,
            ),
            gradients=stages.astype(jnp.int32),
            third_derivatives=n_pairs.astype(jnp.int32),
            status=status_of(pairs, d, solved),
        )
        return FlowState(w + self.dt * delta, after, pairs.vectors, x, state.oscillates), found

    def _third_derivatives(
        self, problem: Problem, w: Array, u: Float[Array, "block params"], count: Int[Array, ""]
    ) -> Float[Array, "pairs params"]:
        """N_ij = ∇_w(u_iᵀ H u_j) of the first ``count`` pairs in the order of :func:`sdcp.pairs`; the rest are zero.

        Derivatives along one direction twice, M(q) = ∇_w(qᵀHq), are up to a third cheaper than along two, so
        2N_ij = M(u_i + u_j) − M(u_i) − M(u_j). A loop of as many passes as there are pairs, so that one compiled
        program serves any number of them.
        """
        i, j = (jnp.asarray(a, jnp.int32) for a in sdcp.pairs(u.shape[0]))
        buffer = jnp.zeros((i.shape[0], w.shape[0]), w.dtype)

        def along(p: Array) -> Array:
            q = u[i[p]] + jnp.where(i[p] == j[p], 0, u[j[p]])
            return problem.third(w, q, q)

        def fill(p: Array, buffer: Array, size: int) -> Array:
            rows = along(p)[None] if size == 1 else jax.vmap(along)(p + jnp.arange(size))
            return jax.lax.dynamic_update_slice(buffer, rows, (p, jnp.zeros_like(p)))

        def mix(p: Array, buffer: Array) -> Array:
            alone = buffer[i[p] * (i[p] + 3) // 2] + buffer[j[p] * (j[p] + 3) // 2]
            row = jnp.where(i[p] == j[p], buffer[p], (buffer[p] - alone) / 2)
            return jax.lax.dynamic_update_slice(buffer, row[None], (p, jnp.zeros_like(p)))

        count = count.astype(jnp.int32)
        first = jnp.zeros_like(count)
        if self.pair_batch > 1 and u.shape[0] > 1:
            # k(k+1)/2 is a multiple of three or one more.
            buffer = jax.lax.fori_loop(0, count // 3, lambda t, b: fill(3 * t, b, 3), buffer)
            first = count - count % 3
        buffer = jax.lax.fori_loop(first, count, lambda p, b: fill(p, b, 1), buffer)
        return jax.lax.fori_loop(0, count, mix, buffer)

    def _solve(
        self,
        before: Any,
        w: Array,
        gradient: Array,
        covectors: Float[Array, "block params"],
        thirds: Float[Array, "pairs params"],
        n_pairs: Int[Array, ""],
        u: Float[Array, "block params"],
        hu: Float[Array, "block params"],
        values: Float[Array, " block"],
        d: Array,
        response: list[Array],
        guess: Float[Array, "block block"],
        both: Bool[Array, "block block"],
    ) -> tuple[Any, ...]:
        """X from the complementarity conditions on the end of the step, and the step with it.

        A_next(X) = diag(2 − λ) + 2Uᵀ(D'⁻¹ − D⁻¹)U − N·Δw, linearised about the X of the step before.
        """
        k, dtype = values.shape[0], w.dtype
        i, j = sdcp.pairs(k)
        index_i, index_j = jnp.asarray(i), jnp.asarray(j)
        # Inner products of packed matrices count off-diagonal entries twice.
        twice = jnp.asarray(np.where(i == j, 1.0, np.sqrt(2.0)), dtype)
        damp = damping(jnp.diag(both) & self.damping, values, self.dt, u, covectors)

        def forces(x: Float[Array, "block block"]) -> tuple[Array, Array]:
            """Average gradient Φ(∇L + ½⟨∇H, Σ⟩) and variance of the oscillating gradient."""
            g = gradient
            if self.penalty:
                g = g + combine((0.5 * twice * sdcp.pack(x))[None], thirds)[0]
            return damp(g), jnp.sum(combine(x, hu) * hu, axis=0)

        def step(g: Array, variance: Array) -> tuple[Any, Array]:
            after, delta = self.optimizer.averaged(before, g, variance, w, response)
            return self.optimizer.part_of_step(before, after, g, w, self.dt), delta

        def end(g: Array, variance: Array) -> tuple[Array, Array]:
            """D'⁻¹ and Δw/dt at the end of the step."""
            after, delta = step(g, variance)
            after = self.optimizer.upcoming(after, before, ahead)
            return 1 / self.optimizer.linear_response(after)[0], delta

        # The end of the step is where the next one starts, at its learning rate. Not at a jump upwards: from there
        # the flow comes down, as from any start above the edge.
        later, _ = self.optimizer.linear_response(self.optimizer.upcoming(before, before, 1))
        now, _ = self.optimizer.linear_response(self.optimizer.upcoming(before, before))
        ahead = jnp.where(jnp.max(later / now) < _JUMP, 1, 0) if any(self.optimizer.scheduled) else 0
        (stiffness, delta), along = jax.linearize(end, *forces(guess))
        leaves = [x for x in jax.tree.leaves(before) if jnp.issubdtype(x.dtype, jnp.floating)]
        separate = all(x.shape == w.shape for x in leaves)
        one, zero = jnp.ones_like(w), jnp.zeros_like(w)
        by_gradient, by_variance = (along(one, zero), along(zero, one)) if separate else ((), ())

        def derivative(dg: Array, dv: Array) -> tuple[Array, Array]:
            """Of ``end``. Where no weight's state depends on another's, the sums of its rows are all of it."""
            if not separate:
                return along(dg, dv)
            d_stiffness, d_delta = (a * dg + b * dv for a, b in zip(by_gradient, by_variance, strict=True))
            return d_stiffness, d_delta

        descent = jnp.maximum(_LEAST_DESCENT, _DESCENT_RATE * (values - 2)) * self.dt
        slack = jnp.maximum(2 - values, -descent)
        stiffening = combine(u * (stiffness - 1 / d), u.T)
        start = sdcp.pack(jnp.diag(slack) + jnp.where(both, 2 * stiffening, 0))
        start = start - self.dt * twice * combine(thirds, delta[:, None])[:, 0]

        def column(p: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            """Response of the end of the step to the p-th packed entry of X."""
            stiffenings, deltas = carry
            a, b = index_i[p], index_j[p]
            dg = damp(0.5 * twice[p] * thirds[p]) if self.penalty else jnp.zeros_like(w)
            dv = twice[p] * hu[a] * hu[b]
            d_stiffness, d_delta = derivative(dg, dv)
            deltas = jax.lax.dynamic_update_slice(deltas, d_delta[None], (p, jnp.zeros_like(p)))
            if self.optimizer.adaptive:
                packed = sdcp.pack(jnp.where(both, combine(u * d_stiffness, u.T), 0))
                stiffenings = jax.lax.dynamic_update_slice(
                    stiffenings, packed[:, None], (jnp.zeros_like(p), p)
                )
            return stiffenings, deltas

        empty = (jnp.zeros((len(i), len(i)), dtype), jnp.zeros_like(thirds))
        stiffenings, deltas = jax.lax.fori_loop(0, n_pairs.astype(jnp.int32), column, empty)
        operator = 2 * stiffenings - self.dt * twice[:, None] * gram(thirds, deltas)
        found = sdcp.solve(sdcp.unpack(start - operator @ sdcp.pack(guess), k), operator, guess)
        x = jnp.where(both, found.x, 0)
        g, variance = forces(x)
        after, delta = step(g, variance)
        return after, delta, x, variance, found.residual, found.converged
