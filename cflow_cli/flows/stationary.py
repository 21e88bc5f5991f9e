"""Where RMSProp's preconditioner comes to rest: as a flow of its own.

The stationary flow assumes that the second moment is always at rest, P = P̄(w) (:mod:`.preconditioner`):

    dw/dt = −P̄⁻¹[∇L + ½∇⟨H, Σ⟩],      Σ = (η²/4)VVᵀ,   ½∇⟨H, Σ⟩ = (η²/8) Σ_a ∇(v_aᵀHv_a),

with the V that the program for P̄ returns. Along the critical directions the step is damped as that of the central flow.

What is left open, and chosen here: ε is neglected, and so is what bias correction does to the time scale of ν.

Source: Cohen et al., arXiv:2410.24206, section 5.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cflow_cli.curvature.block import combine, gram
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.errors import UserError
from cflow_cli.flows import preconditioner
from cflow_cli.flows.base import (
    FlowState,
    Linearised,
    Oscillation,
    StepInfo,
    damping,
    follow,
    with_counters,
)
from cflow_cli.optimizers.classify import COUNTER, EVEN, ODD
from cflow_cli.optimizers.operator_map import OperatorMap
from cflow_cli.optimizers.update_map import UpdateMap
from cflow_cli.problem import Problem


class LearningRate(eqx.Module):
    """η of an RMSProp at any state, from its map alone.

    D at ν = 1 is η√(1 − β₂ᵗ) under bias correction, else η; t is the counter on which D depends in that way.

    Parameters
    ----------
    optimizer
        The update map.
    decay
        β₂.
    moment
        Index of ν among the leaves of the state.
    corrected
        Index of the counter of the bias correction; None without one.
    """

    optimizer: UpdateMap
    decay: float = eqx.field(static=True)
    moment: int = eqx.field(static=True)
    corrected: int | None = eqx.field(static=True)

    @classmethod
    def of(cls, optimizer: UpdateMap | OperatorMap) -> LearningRate:
        """Find out where ν and the counter are.

        Raises
        ------
        UserError
            If the optimizer is no RMSProp: one second moment per weight that follows g², and no momentum.
        """
        refusal = UserError(
            "no stationary preconditioner for this optimizer: it is known for RMSProp (a mean of g² per weight, no "
            "momentum); choose optimizer=rmsprop, or leave stationary out of the processes and "
            "stationary_preconditioner out of the measurements"
        )
        if isinstance(optimizer, OperatorMap):
            raise refusal
        state = optimizer.init(jnp.zeros(optimizer.size, optimizer.dtype))
        leaves, structure = jax.tree.flatten(state)
        moments = [
            i for i, p in enumerate(optimizer.parity) if p == EVEN and leaves[i].shape == (optimizer.size,)
        ]
        rest = [p for p in optimizer.parity if p in (ODD, EVEN)]

        def d(values: dict[int, float]) -> float:
            filled = [jnp.full_like(x, values.get(i, 1)) for i, x in enumerate(leaves)]
            return float(optimizer.linear_response(jax.tree.unflatten(structure, filled))[0][0])

        if len(moments) != 1 or len(rest) != 1:
            raise refusal
        (moment,) = moments
        one = jnp.ones(optimizer.size, optimizer.dtype)
        after, _ = optimizer(jax.tree.unflatten(structure, [jnp.ones_like(x) for x in leaves]), 2 * one, one)
        decay = (4 - float(jax.tree.leaves(after)[moment][0])) / 3
        if not 0 < decay < 1 or abs(d({moment: 4.0}) / d({moment: 1.0}) - 0.5) > 1e-3:
            raise refusal
        corrected = None
        for i, p in enumerate(optimizer.parity):
            ratio = d({i: 2}) / d({i: 1}) if p == COUNTER else 0.0
            if abs(ratio / (1 + decay) ** 0.5 - 1) < 1e-3:
                corrected = i
        return cls(optimizer, decay, moment, corrected)

    def __call__(self, state: Any) -> Float[Array, ""]:
        """η of the step that made ``state``."""
        leaves, structure = jax.tree.flatten(state)
        held = [jnp.ones_like(x) if i == self.moment else x for i, x in enumerate(leaves)]
        d, _ = self.optimizer.linear_response(jax.tree.unflatten(structure, held))
        if self.corrected is None:
            return d[0]
        return d[0] / jnp.sqrt(1 - self.decay ** leaves[self.corrected].astype(d.dtype))


class StationaryStepper(eqx.Module):
    """The step of the stationary flow over a time dt.

    Parameters
    ----------
    rate
        η of the optimizer.
    eigs
        How eigenvalues are tracked.
    dt
        Part of an optimizer step.
    rank, tolerance
        As in :class:`cflow_cli.flows.options.Stationary`.
    """

    rate: LearningRate
    eigs: EigsOptions = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    rank: int = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)

    @property
    def optimizer(self) -> UpdateMap:
        """The update map."""
        return self.rate.optimizer

    def start(self, weights: Float[Array, " params"], block: int) -> preconditioner.Guess:
        """A random V; the first step takes as long as it needs."""
        return preconditioner.random_guess(jax.random.PRNGKey(0), self.rank, jnp.ones_like(weights))

    def __call__(
        self, problem: Problem, state: FlowState, counters: Any, iterations: Int[Array, ""]
    ) -> tuple[FlowState, StepInfo]:
        """Take one sub-step; see :class:`cflow_cli.flows.base.Stepper`."""
        w, eta = state.weights, self.rate(self.optimizer.upcoming(state.optimizer, counters))
        linear = problem.linearize(w)
        solution, memory = preconditioner.solve(
            linear.hvp, jnp.abs(linear.gradient) / eta, state.memory, self.tolerance
        )
        d = 1 / solution.p
        root = jnp.sqrt(d)
        # P̄ may move by much in a step; the program knows its top eigenvectors already.
        known = min(self.rank, state.vectors.shape[0])
        started = state._replace(vectors=state.vectors.at[:known].set(memory.vectors[:known]))
        pairs = follow(linear, d, self.eigs, started, iterations)
        # Only the counters of the optimizer's state matter here.
        before = with_counters(self.optimizer, state.optimizer, counters)
        here = Linearised(linear, d, root, [], pairs, before)
        variance = eta**2 / 4
        penalty = variance / 2 * jnp.sum(jax.lax.map(lambda v: problem.third(w, v, v), solution.v), axis=0)
        u, covectors = pairs.vectors * root, pairs.vectors / root
        amounts = damping(pairs.values > self.eigs.critical_above, pairs.values, self.dt)
        force = linear.gradient + penalty
        force = force + combine((amounts * combine(u, force[:, None])[:, 0])[None], covectors)[0]
        along = gram(covectors, solution.v)
        oscillation = Oscillation(
            x=variance * along @ along.T,
            loss=linear.loss + variance / 2 * jnp.sum(solution.v * solution.products),
            grad_norm_sq=linear.gradient @ linear.gradient + variance * jnp.sum(solution.products**2),
            gradient_variance=variance * jnp.sum(solution.products**2, axis=0),
            residual=solution.gap,
        )
        speed = linear.gradient @ (d * linear.gradient)
        info = here.info(
            oscillation,
            hvps=solution.hvps,
            third_derivatives=self.rank,
            solved=solution.converged,
            extra={"stationary_gap": solution.gap, "speed_stationary": speed},
        )
        after, _ = self.optimizer(before, linear.gradient, w)
        moved = w - self.dt * d * force
        return FlowState(moved, after, pairs.ahead, state.x, state.oscillates, memory), info
