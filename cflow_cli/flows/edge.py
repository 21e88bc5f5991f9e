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

from cflow_cli.curvature.options import EigsOptions
from cflow_cli.flows.base import End, FlowState, StepInfo, between, linearise
from cflow_cli.optimizers.update_map import UpdateMap
from cflow_cli.problem import Problem


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
    eigs
        How eigenvalues are tracked.
    dt
        Part of an optimizer step.
    floor
        Smallest amplitude.
    """

    optimizer: UpdateMap
    eigs: EigsOptions = eqx.field(static=True)
    dt: float = eqx.field(static=True)
    floor: float = eqx.field(static=True)

    def start(self, weights: Float[Array, " params"], block: int) -> Swing:
        """The smallest oscillation, its direction still to be found."""
        return Swing(jnp.zeros_like(weights), jnp.asarray(self.floor, weights.dtype))

    def __call__(
        self, problem: Problem, state: FlowState, counters: Any, iterations: Int[Array, ""]
    ) -> tuple[FlowState, StepInfo]:
        """Take one sub-step; see :class:`cflow_cli.flows.base.Stepper`."""
        w = state.weights
        here = linearise(self.optimizer, self.eigs, problem, state, counters, iterations)
        direction, amplitude = state.memory
        u = jnp.where(jnp.any(direction != 0), direction, here.pairs.vectors[0])
        rod = amplitude * u
        plus, minus = (End(*jax.value_and_grad(problem.loss)(w + s * rod)) for s in (1.0, -1.0))
        after, delta = self.optimizer(here.before, (plus.gradient + minus.gradient) / 2, w)

        hu = here.d * here.linear.hvp(u[None])[0]
        sharpness = u @ hu
        turned = u + self.dt * (hu - sharpness * u)
        grown = jnp.maximum(amplitude * jnp.exp(self.dt * (sharpness - 2)), self.floor)
        info = here.info(between(here, rod, plus, minus), gradients=3, hvps=1)
        swing = Swing(turned / jnp.linalg.norm(turned), grown.astype(w.dtype))
        return FlowState(w + self.dt * delta, after, here.pairs.ahead, state.x, state.oscillates, swing), info
