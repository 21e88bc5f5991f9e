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
from jaxtyping import Array, Float, Int

from cflow_cli.computing import platform
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.flows import sdcp
from cflow_cli.flows.base import FlowState, Linearised, Oscillation, StepInfo, linearise
from cflow_cli.flows.frame import Move, frame_of
from cflow_cli.flows.stable import mean_gradient, num_stages
from cflow_cli.flows.third_derivatives import (
    Directions,
    Remembered,
    differentiate_or_turn,
    remember_none,
)
from cflow_cli.optimizers.update_map import UpdateMap
from cflow_cli.problem import Problem

# Numbers of critical directions that the algebra of a step is compiled for, besides that of the whole block. It takes
# time like their fourth power, about seven times as much from one to the next, and each takes some seconds to compile:
# those above three quarters of the block's are left out.
_COMPILED_FOR = (3, 5, 8)


class CentralStepper(eqx.Module):
    """The step of the central flow over a time dt, or of the stable flow where ``state.oscillates`` is false.

    Parameters
    ----------
    optimizer
        The update map whose average is followed.
    eigs
        How eigenvalues are tracked; those above its ``critical_above`` may oscillate.
    dt
        Part of an optimizer step; 1 takes whole steps.
    pair_batch
        Third derivatives evaluated together: 1, or 3 where single ones leave the device idle.
    penalty
        False leaves ½∇⟨H, Σ⟩ out of the average gradient: the ablated flow, held at the edge by its second moments.
    damping
        Whether a step along the critical directions is the exponential one; False only to measure what that is for.
    third_derivatives_every
        Sub-steps that third derivatives serve, turned with the critical directions, unless the set of those changes;
        None for as many as they foretell the curvature there.
    """

    optimizer: UpdateMap
    eigs: EigsOptions = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    pair_batch: int = eqx.field(static=True)
    penalty: bool = eqx.field(static=True, default=True)
    damping: bool = eqx.field(static=True, default=True)
    third_derivatives_every: int | None = eqx.field(static=True, default=1)

    def start(self, weights: Float[Array, " params"], block: int) -> Remembered | tuple[()]:
        """No memory beyond X, but for third derivatives that are used again."""
        return remember_none(weights, block, self.optimizer.uniform, self.third_derivatives_every)

    def __call__(
        self, problem: Problem, state: FlowState, counters: Any, iterations: Int[Array, ""]
    ) -> tuple[FlowState, StepInfo]:
        """Take one sub-step; see :class:`cflow_cli.flows.base.Stepper`."""
        w, block = state.weights, state.vectors.shape[0]
        here = linearise(self.optimizer, self.eigs, problem, state, counters, iterations)
        linear, values = here.linear, here.pairs.values
        edge = self.eigs.critical_above
        critical = jnp.where(state.oscillates, jnp.sum(values > edge), 0)
        stages = jnp.where(state.oscillates, 1, num_stages(values[0] * self.dt, edge))
        directions = Directions(here.pairs.vectors, here.root, critical, values)
        memory, third = differentiate_or_turn(
            problem, w, directions, self.pair_batch, state.memory, self.third_derivatives_every
        )

        def smooth(_: None) -> Move:
            gradient = mean_gradient(problem, w, linear.gradient, here.d, self.dt, stages)
            return self._calm_move(state, here, gradient)

        def oscillating(k: int, _: None) -> Move:
            frame = frame_of(
                self.optimizer,
                w,
                here,
                third,
                critical,
                k,
                dt=self.dt,
                penalty=self.penalty,
                damped=self.damping,
            )
            guess = frame.turned(state)
            alpha, beta = frame.linearised(guess)
            move = frame.take(sdcp.solve(alpha, beta, guess))
            return move._replace(x=jnp.zeros_like(state.x).at[:k, :k].set(move.x))

        # Branches of fixed size: what k directions need is often much less than the algebra of a whole block.
        sizes = [*(k for k in _COMPILED_FOR if 4 * k <= 3 * block), block]
        branch = jnp.where(critical > 0, 1 + sum((critical > k).astype(jnp.int32) for k in sizes[:-1]), 0)
        move = jax.lax.switch(branch, [smooth, *(partial(oscillating, k) for k in sizes)], None)
        oscillation = Oscillation(
            x=move.x,
            loss=linear.loss + jnp.sum(values * jnp.diag(move.x)) / 2,
            grad_norm_sq=linear.gradient @ linear.gradient + jnp.sum(move.variance),
            gradient_variance=move.variance,
            residual=move.residual,
        )
        info = here.info(oscillation, gradients=stages, third_derivatives=third.computed, solved=move.solved)
        new = w + self.dt * move.delta
        return FlowState(new, move.after, here.pairs.ahead, move.x, state.oscillates, memory), info

    def _calm_move(self, state: FlowState, here: Linearised, gradient: Array) -> Move:
        """A step without oscillation: the optimizer's own, or the part of it that belongs to a time dt."""
        w = state.weights
        after, delta = self.optimizer(here.before, gradient, w)
        after = self.optimizer.part_of_step(here.before, after, gradient, w, self.dt)
        none = jnp.zeros((), w.dtype)
        return Move(after, delta, jnp.zeros_like(state.x), jnp.zeros_like(w), none, jnp.asarray(True))


def suitable_batch() -> int:
    """Third derivatives worth evaluating together where JAX computes.

    On a processor single ones were measured no slower than batches, and they need less memory; three divide k(k+1)/2 or
    leave one over.
    """
    return 1 if platform() == "cpu" else 3
