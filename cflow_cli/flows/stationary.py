"""Where RMSProp's preconditioner comes to rest: as a flow of its own, and measured along the central flow.

The stationary flow assumes that the second moment is always at rest, P = P̄(w) (:mod:`.preconditioner`):

    dw/dt = −P̄⁻¹[∇L + ½∇⟨H, Σ⟩],      Σ = (η²/4)VVᵀ,   ½∇⟨H, Σ⟩ = (η²/8) Σ_a ∇(v_aᵀHv_a),

with the V that the program for P̄ returns. Along the critical directions the step is damped as that of the central flow.

:class:`Watched` measures along another flow how near its ν is to ν̄ = (ηP̄)², and how fast the loss would fall,
∇LᵀP⁻¹∇L, under the preconditioners P = D⁻¹, P̄, P̄ without the second term of its program, and (S/2)I.

What is left open, and chosen here: ε is neglected, and so is what bias correction does to the time scale of ν.

Source: Cohen et al., arXiv:2410.24206, section 5.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..curvature.block import combine, gram, preconditioned, random_rows, track
from ..errors import UserError
from ..optimizers.update_map import COUNTER, EVEN, ODD, UpdateMap
from ..problem import Problem
from . import preconditioner
from .base import FlowState, FlowStep, Oscillation, Stepper, damping, status_of, with_counters


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
    def of(cls, optimizer: UpdateMap) -> LearningRate:
        """Find out where ν and the counter are.

        Raises
        ------
        UserError
            If the optimizer is no RMSProp: one second moment per weight that follows g², and no momentum.
        """
        state = optimizer.init(jnp.zeros(optimizer.size, optimizer.dtype))
        leaves, structure = jax.tree.flatten(state)
        moments = [
            i for i, p in enumerate(optimizer.parity) if p == EVEN and leaves[i].shape == (optimizer.size,)
        ]
        rest = [p for p in optimizer.parity if p in (ODD, EVEN)]

        def d(values: dict[int, float]) -> float:
            filled = [jnp.full_like(x, values.get(i, 1)) for i, x in enumerate(leaves)]
            return float(optimizer.linear_response(jax.tree.unflatten(structure, filled))[0][0])

        refusal = UserError(
            "no stationary preconditioner for this optimizer: it is known for RMSProp (a mean of g² per weight, no "
            "momentum); choose optimizer=rmsprop, or leave stationary out of the processes and stationary_every at 0"
        )
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
    dt
        Part of an optimizer step.
    track_above, critical_above, eigs_tolerance
        As in :class:`cflow_cli.options.EigsOptions`.
    rank, tolerance
        As in :class:`cflow_cli.options.Stationary`.
    """

    rate: LearningRate
    dt: float = eqx.field(static=True)
    track_above: float = eqx.field(static=True)
    critical_above: float = eqx.field(static=True)
    eigs_tolerance: float = eqx.field(static=True)
    rank: int = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)

    @property
    def optimizer(self) -> UpdateMap:
        """The update map."""
        return self.rate.optimizer

    def start(self, weights: Float[Array, " params"], block: int) -> preconditioner.Start:
        """A random V; the first step takes as long as it needs."""
        return preconditioner.start(jax.random.PRNGKey(0), self.rank, jnp.ones_like(weights))

    def __call__(
        self, problem: Problem, state: FlowState, counters: Any, iterations: Int[Array, ""]
    ) -> tuple[FlowState, FlowStep]:
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
        pairs = track(
            preconditioned(linear.hvp, d),
            state.vectors.at[:known].set(memory.vectors[:known]),
            above=self.track_above,
            critical=self.critical_above,
            tolerance=self.eigs_tolerance,
            max_iterations=iterations,
        )
        variance = eta**2 / 4
        penalty = variance / 2 * jnp.sum(jax.lax.map(lambda v: problem.third(w, v, v), solution.v), axis=0)
        u, covectors = pairs.vectors * root, pairs.vectors / root
        amounts = damping(pairs.values > self.critical_above, pairs.values, self.dt)
        force = linear.gradient + penalty
        force = force + combine((amounts * combine(u, force[:, None])[:, 0])[None], covectors)[0]
        along = gram(covectors, solution.v)
        found = FlowStep(
            linear=linear,
            pairs=pairs._replace(hvps=pairs.hvps + solution.hvps),
            preconditioner=d,
            oscillation=Oscillation(
                x=variance * along @ along.T,
                loss=linear.loss + variance / 2 * jnp.sum(solution.v * solution.products),
                grad_norm_sq=linear.gradient @ linear.gradient + variance * jnp.sum(solution.products**2),
                gradient_variance=variance * jnp.sum(solution.products**2, axis=0),
                residual=solution.gap,
            ),
            gradients=jnp.ones((), jnp.int32),
            third_derivatives=jnp.asarray(self.rank, jnp.int32),
            status=status_of(pairs, d, solution.converged),
            extra={
                "stationary_gap": solution.gap,
                "speed_stationary": linear.gradient @ (d * linear.gradient),
            },
        )
        # Only the counters of the optimizer's state matter here.
        after, _ = self.optimizer(
            with_counters(self.optimizer, state.optimizer, counters), linear.gradient, w
        )
        moved = w - self.dt * d * force
        return FlowState(moved, after, pairs.ahead, state.x, state.oscillates, memory), found


class Watch(NamedTuple):
    """What measuring along a flow needs to remember.

    Parameters
    ----------
    flow
        Memory of the flow itself.
    programs
        Where the program and the one without its second term start from, stacked.
    hessian
        Top eigenvectors of H, shape (2, n).
    age
        Sub-steps taken.
    """

    flow: Any
    programs: preconditioner.Start
    hessian: Float[Array, "few params"]
    age: Int[Array, ""]


class Watched(eqx.Module):
    """A flow beside which the stationary preconditioner is measured every few steps.

    Parameters
    ----------
    stepper
        The flow.
    rate
        η of the optimizer.
    every
        Sub-steps between two measurements.
    rank, tolerance
        As in :class:`cflow_cli.options.Stationary`.
    """

    stepper: Stepper
    rate: LearningRate
    every: int = eqx.field(static=True)
    rank: int = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)

    @property
    def optimizer(self) -> UpdateMap:
        """The update map."""
        return self.rate.optimizer

    def start(self, weights: Float[Array, " params"], block: int) -> Watch:
        """Random vectors; the first measurement takes as long as it needs."""
        key, own = jax.random.split(jax.random.PRNGKey(0))
        guess = preconditioner.start(key, self.rank, jnp.ones_like(weights))
        rows = random_rows(own, min(2, weights.shape[0]), weights.shape[0], weights.dtype)
        programs = jax.tree.map(lambda a: jnp.stack([a, a]), guess)
        return Watch(self.stepper.start(weights, block), programs, rows, jnp.zeros((), jnp.int32))

    def __call__(
        self, problem: Problem, state: FlowState, counters: Any, iterations: Int[Array, ""]
    ) -> tuple[FlowState, FlowStep]:
        """Take one sub-step of the flow; see :class:`cflow_cli.flows.base.Stepper`."""
        watch: Watch = state.memory
        new, found = self.stepper(problem, state._replace(memory=watch.flow), counters, iterations)
        linear, d, dtype = found.linear, found.preconditioner, state.weights.dtype
        g = linear.gradient

        def measure(_: None) -> tuple[Any, ...]:
            eta = self.rate(self.optimizer.upcoming(state.optimizer, counters))
            # One program in the compiler's eyes, with and without the second term.
            both, after = jax.lax.map(
                lambda parts: preconditioner.solve(linear.hvp, parts[0], parts[1], self.tolerance),
                (jnp.stack([jnp.abs(g) / eta, jnp.zeros_like(g)]), watch.programs),
            )
            full, trace = (jax.tree.map(lambda a, i=i: a[i], both) for i in (0, 1))
            top = track(linear.hvp, watch.hessian, above=jnp.inf, tolerance=0.01, max_iterations=200)
            moment, rest = d**-2, full.p**2
            measured = {
                "nu_cosine": moment @ rest / (jnp.linalg.norm(moment) * jnp.linalg.norm(rest)),
                "speed": g @ (d * g),
                "speed_stationary": g @ (g / full.p),
                "speed_trace": g @ (g / trace.p),
                "speed_sharpness": 2 * (g @ g) / top.values[0],
                "stationary_gap": jnp.maximum(full.gap, trace.gap),
                "stationary_preconditioner": 1 / full.p,
            }
            return measured, (after, top.ahead), full.hvps + trace.hvps + top.hvps

        def skip(_: None) -> tuple[Any, ...]:
            nothing = jnp.full((), jnp.nan, dtype)
            names = (
                "nu_cosine",
                "speed",
                "speed_stationary",
                "speed_trace",
                "speed_sharpness",
                "stationary_gap",
            )
            return (
                dict.fromkeys(names, nothing)
                | {"stationary_preconditioner": jnp.full(d.shape, jnp.nan, dtype)},
                (watch.programs, watch.hessian),
                jnp.zeros((), jnp.int32),
            )

        measured, kept, hvps = jax.lax.cond(watch.age % self.every == 0, measure, skip, None)
        found = found._replace(pairs=found.pairs._replace(hvps=found.pairs.hvps + hvps), extra=measured)
        return new._replace(memory=Watch(new.memory, kept[0], kept[1], watch.age + 1)), found
