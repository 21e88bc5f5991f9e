"""Edge flow of gradient descent: a centre w̄, a unit direction u and an amplitude r of the oscillation.

    dw̄/dt = −½η(g₊ + g₋),   du/dt = η(Hu − (uᵀHu)u),   dr/dt = (ηuᵀHu − 2)r,

with g± at w̄ ± ru and H at w̄: the centre follows the flow of the symmetrised loss, the direction the Rayleigh-quotient
flow of the Hessian, and the amplitude grows above and decays below the edge. The feedback closes through the centre:
an amplitude moves it towards smaller sharpness.

What the abstract leaves open, and chosen here: time runs in optimizer steps, so that every rate carries η; the growth
rate is the first order of that of the optimizer, log|1 − ηS|; the direction starts at the top eigenvector; the
amplitude never falls below a floor, from which it grows back. The amplitude is stepped exactly, the rest with Euler's
method.

Source: Marion, arXiv:2606.18080.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..curvature.block import preconditioned, track
from ..optimizers.update_map import UpdateMap
from ..problem import Problem
from .base import End, FlowState, FlowStep, between, status_of, with_counters


class Swing(NamedTuple):
    """Unit direction u and amplitude r; u is zero before the first step."""

    direction: Float[Array, " params"]
    amplitude: Float[Array, ""]


class EdgeStepper(eqx.Module):
    """The step of edge flow over a time dt.

    Parameters
    ----------
    optimizer
        Gradient descent, perhaps with weight decay or a schedule.
    dt
        Part of an optimizer step.
    track_above, critical_above, tolerance
        As in :class:`cflow_cli.options.EigsOptions`.
    floor
        Smallest amplitude.
    """

    optimizer: UpdateMap
    dt: float = eqx.field(static=True)
    track_above: float = eqx.field(static=True)
    critical_above: float = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)
    floor: float = eqx.field(static=True)

    def start(self, weights: Float[Array, " params"], block: int) -> Swing:
        """The smallest oscillation, its direction still to be found."""
        return Swing(jnp.zeros_like(weights), jnp.asarray(self.floor, weights.dtype))

    def __call__(
        self, problem: Problem, state: FlowState, counters: Any, iterations: Int[Array, ""]
    ) -> tuple[FlowState, FlowStep]:
        """Take one sub-step; see :class:`cflow_cli.flows.base.Stepper`."""
        w = state.weights
        linear = problem.linearize(w)
        d, _ = self.optimizer.linear_response(self.optimizer.upcoming(state.optimizer, counters))
        pairs = track(
            preconditioned(linear.hvp, d),
            state.vectors,
            above=self.track_above,
            critical=self.critical_above,
            tolerance=self.tolerance,
            max_iterations=iterations,
        )
        before = with_counters(self.optimizer, state.optimizer, counters)
        direction, amplitude = state.memory
        u = jnp.where(jnp.any(direction != 0), direction, pairs.vectors[0])
        rod = amplitude * u
        plus, minus = (End(*jax.value_and_grad(problem.loss)(w + s * rod)) for s in (1.0, -1.0))
        after, delta = self.optimizer(before, (plus.gradient + minus.gradient) / 2, w)

        hu = d * linear.hvp(u[None])[0]
        sharpness = u @ hu
        turned = u + self.dt * (hu - sharpness * u)
        grown = jnp.maximum(amplitude * jnp.exp(self.dt * (sharpness - 2)), self.floor)
        found = FlowStep(
            linear=linear,
            pairs=pairs._replace(hvps=pairs.hvps + 1),
            preconditioner=d,
            oscillation=between(linear, pairs, d, rod, plus, minus),
            gradients=jnp.asarray(3, jnp.int32),
            third_derivatives=jnp.zeros((), jnp.int32),
            status=status_of(pairs, d),
        )
        swing = Swing(turned / jnp.linalg.norm(turned), grown.astype(w.dtype))
        return FlowState(w + self.dt * delta, after, pairs.ahead, state.x, state.oscillates, swing), found
