"""One step of a central or stable flow of any smooth elementwise optimizer.

The state of the optimizer is averaged over its oscillation δ with covariance Σ = U X Uᵀ along the critical directions,
H u = λ D⁻¹ u, UᵀD⁻¹U = I. To second order the average gradient is ∇L + ½∇⟨H, Σ⟩ and the oscillating gradient has
variance diag(HΣH) = diag(G X Gᵀ) per weight, G = HU. X follows from three conditions on the end of the step: X ⪰ 0, no
effective eigenvalue above 2, complementarity. With X = 0 the same step is the stable flow.

Sources: Cohen et al., *Understanding Optimization in Deep Learning with Central Flows*, arXiv:2410.24206, for gradient
descent and RMSProp; the form for a general update map, with momentum, is derived in ``docs/concepts.md``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from ..curvature.block import RitzPairs, combine, gram, track
from ..optimizers.update_map import COUNTER, UpdateMap
from ..problem import Linearization, Problem
from ..records import Status
from . import sdcp

_SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
_DEFICIT = 0.1


class FlowState(NamedTuple):
    """State of a flow.

    Parameters
    ----------
    weights
        w, shape (n,).
    optimizer
        Averaged optimizer state.
    vectors
        Orthonormal tracked eigenvectors of D^½ H D^½, shape (block, n).
    x
        X in their basis, shape (block, block); zero outside the critical directions.
    oscillates
        False for the stable flow, which keeps X = 0.
    """

    weights: Float[Array, " params"]
    optimizer: Any
    vectors: Float[Array, "block params"]
    x: Float[Array, "block block"]
    oscillates: Bool[Array, ""]


class FlowStep(NamedTuple):
    """What a step found out about its starting point; names as in :data:`cflow_cli.records.METRICS`."""

    linear: Linearization
    pairs: RitzPairs
    preconditioner: Float[Array, " params_or_1"]
    x: Float[Array, "block block"]
    num_critical: Int[Array, ""]
    sdcp_residual: Float[Array, ""]
    predicted_loss: Float[Array, ""]
    predicted_grad_norm_sq: Float[Array, ""]
    gradient_variance: Float[Array, " params"]
    third_derivatives: Int[Array, ""]
    status: Int[Array, ""]


def branch_sizes(block: int) -> tuple[int, ...]:
    """Sizes of the complementarity problem that a block of tracked directions may need, 0 first."""
    return (0, *(s for s in _SIZES if s < block), block)


class FlowStepper(eqx.Module):
    """The step (w, s, V, X) ↦ (w', s', V', X') of a flow with time step dt.

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
    """

    optimizer: UpdateMap
    dt: float = eqx.field(static=True)
    track_above: float = eqx.field(static=True)
    critical_above: float = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)
    pair_batch: int = eqx.field(static=True)

    def __call__(
        self, problem: Problem, state: FlowState, counters: Any, iterations: Int[Array, ""]
    ) -> tuple[FlowState, FlowStep]:
        """Take one sub-step.

        Parameters
        ----------
        problem
            L and its derivatives.
        state
            Where to start from.
        counters
            Optimizer state at the start of the whole step, whose counters all its sub-steps use.
        iterations
            Expansions the eigensolver may use.
        """
        w, block = state.weights, state.vectors.shape[0]
        linear = problem.linearize(w)
        d, response = self.optimizer.linear_response(state.optimizer)
        root = jnp.sqrt(d)
        pairs = track(
            lambda rows: root * linear.hvp(root * rows),
            state.vectors,
            above=self.track_above,
            tolerance=self.tolerance,
            max_iterations=iterations,
        )
        u, covectors, hu = pairs.vectors * root, pairs.vectors / root, pairs.products / root
        overlap = gram(pairs.vectors, state.vectors)
        x_before = overlap @ state.x @ overlap.T

        candidates = jnp.sum(pairs.values > self.critical_above)
        critical = jnp.where(state.oscillates, candidates, 0)
        n_pairs = critical * (critical + 1) // 2
        thirds = self._third_derivatives(problem, w, u, n_pairs)

        decay = pairs.values * self.dt
        damped = jnp.where(jnp.arange(block) < candidates, -jnp.expm1(-decay) / decay - 1, 0)

        def damp(rows: Float[Array, "rows params"]) -> Float[Array, "rows params"]:
            """Φ: a whole step leaves λ ≈ 2 neutrally stable; take (1 − e^{−λdt})/(λdt) of it there."""
            return rows + combine(gram(rows, u) * damped, covectors)

        gradient = damp(linear.gradient[None])[0]
        before = _with_counters(self.optimizer, state.optimizer, counters)

        def smooth(_: None) -> tuple[Any, ...]:
            after, delta = self.optimizer(before, gradient, w)
            after = self.optimizer.part_of_step(before, after, gradient, w, self.dt)
            zero = jnp.zeros((), w.dtype)
            return after, delta, jnp.zeros_like(state.x), zero, jnp.zeros_like(w), jnp.asarray(True)

        def oscillating(size: int) -> Any:
            def branch(_: None) -> tuple[Any, ...]:
                after, delta, x, residual, variance, converged = self._solve(
                    before, w, gradient, damp(thirds[: size * (size + 1) // 2]), thirds[: size * (size + 1) // 2],
                    u[:size], hu[:size], pairs.values[:size], d, response, x_before[:size, :size], critical, linear.loss,
                )
                x = jnp.zeros_like(state.x).at[:size, :size].set(x)
                return after, delta, x, residual, variance, converged

            return branch

        sizes = branch_sizes(block)
        index = jnp.searchsorted(jnp.asarray(sizes), critical)
        after, delta, x, residual, variance, converged = jax.lax.switch(
            index, [smooth, *(oscillating(s) for s in sizes[1:])], None
        )

        status = jnp.where(pairs.converged, Status.OK, Status.EIGENPAIRS_NOT_CONVERGED)
        status = jnp.where(converged, status, Status.SDCP_NOT_CONVERGED)
        status = jnp.where(jnp.all((d > 0) & jnp.isfinite(d)), status, Status.NOT_POSITIVE)
        found = FlowStep(
            linear=linear,
            pairs=pairs,
            preconditioner=d,
            x=x,
            num_critical=candidates,
            sdcp_residual=residual,
            predicted_loss=linear.loss + jnp.sum(pairs.values * jnp.diag(x)) / 2,
            predicted_grad_norm_sq=linear.gradient @ linear.gradient + jnp.sum(gram(hu, hu) * x),
            gradient_variance=variance,
            third_derivatives=n_pairs,
            status=status.astype(jnp.int32),
        )
        return FlowState(w + self.dt * delta, after, pairs.vectors, x, state.oscillates), found

    def _third_derivatives(
        self, problem: Problem, w: Array, u: Float[Array, "block params"], count: Int[Array, ""]
    ) -> Float[Array, "pairs params"]:
        """N_ij = ∇_w(u_iᵀ H u_j) of the first ``count`` pairs in the order of :func:`sdcp.pairs`; the rest are zero.

        A loop of as many passes as there are pairs, so that one compiled program serves any number of them.
        """
        block = u.shape[0]
        i, j = (jnp.asarray(a) for a in sdcp.pairs(block))
        buffer = jnp.zeros((i.shape[0], w.shape[0]), w.dtype)

        def fill(size: int) -> Any:
            def body(at: Array, buffer: Array) -> Array:
                rows = jax.vmap(lambda a, b: problem.third(w, u[a], u[b]))(
                    jax.lax.dynamic_slice(i, (at,), (size,)), jax.lax.dynamic_slice(j, (at,), (size,))
                )
                return jax.lax.dynamic_update_slice(buffer, rows, (at, 0))

            return body

        if self.pair_batch == 1 or block < 2:
            return jax.lax.fori_loop(0, count, fill(1), buffer)
        # k(k+1)/2 is a multiple of three or one more.
        buffer = jax.lax.fori_loop(0, count // 3, lambda t, b: fill(3)(3 * t, b), buffer)
        return jax.lax.fori_loop(count - count % 3, count, fill(1), buffer)

    def _solve(
        self,
        before: Any,
        w: Array,
        gradient: Array,
        penalties: Float[Array, "pairs params"],
        thirds: Float[Array, "pairs params"],
        u: Float[Array, "k params"],
        hu: Float[Array, "k params"],
        values: Float[Array, " k"],
        d: Array,
        response: list[Array],
        guess: Float[Array, "k k"],
        critical: Int[Array, ""],
        loss: Float[Array, ""],
    ) -> tuple[Any, ...]:
        """X from the complementarity conditions on the end of the step, and the step with it."""
        k, dtype = values.shape[0], w.dtype
        i, j = sdcp.pairs(k)
        active = jnp.arange(k) < critical
        both = active[:, None] & active[None, :]
        hu = jnp.where(active[:, None], hu, 0)
        # ½⟨∇H, Σ⟩ = ½ Σ_ij X_ij N_ij, and each pair i < j stands for two entries.
        weight = jnp.asarray(np.where(i == j, 0.5, 1.0), dtype)

        def step(x: Float[Array, "k k"]) -> tuple[Any, Array, Array]:
            variance = jnp.sum(combine(x, hu) * hu, axis=0)
            g = gradient + combine((weight * x[i, j])[None], penalties)[0]
            after, delta = self.optimizer.averaged(before, g, variance, w, response)
            return self.optimizer.part_of_step(before, after, g, w, self.dt), delta, variance

        # Above the edge (after a restart, a jump of the learning rate) come down gradually, as the optimizer does.
        slack = jnp.maximum(2 - values, -_DEFICIT)

        def end_of_step(p: sdcp.Packed) -> sdcp.Packed:
            """A_next(X) = 2 UᵀD'⁻¹U − UᵀH'U to first order in the step, packed."""
            after, delta, _ = step(sdcp.unpack(p, k))
            d_after, _ = self.optimizer.linear_response(after)
            stiffening = combine(u * (1 / d_after - 1 / d), u.T)
            sharpening = jnp.zeros((k, k), dtype).at[i, j].set(combine(thirds, delta[:, None])[:, 0])
            sharpening = sharpening.at[j, i].set(sharpening[i, j])
            change = 2 * stiffening - self.dt * sharpening
            return sdcp.pack(jnp.diag(slack) + jnp.where(both, change, 0))

        # The map is smooth in X but its derivative needs some variance to be taken at.
        around = jnp.where(both, guess, 0)
        around = around + jnp.where(active, 1e-4 * jnp.abs(loss) + jnp.finfo(dtype).tiny, 0) * jnp.eye(k, dtype=dtype)
        at = sdcp.pack(around)
        value, slope = jax.linearize(end_of_step, at)
        operator = jax.vmap(slope, out_axes=1)(jnp.eye(at.shape[0], dtype=dtype))
        found = sdcp.solve(sdcp.unpack(value - operator @ at, k), operator, around)
        x = jnp.where(both, found.x, 0)
        after, delta, variance = step(x)
        return after, delta, x, found.residual, variance, found.converged


def _with_counters(optimizer: UpdateMap, state: Any, counters: Any) -> Any:
    leaves = [
        c if p == COUNTER else x
        for x, c, p in zip(jax.tree.leaves(state), jax.tree.leaves(counters), optimizer.parity, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(state), leaves)
