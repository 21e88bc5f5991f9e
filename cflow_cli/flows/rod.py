"""Rod flow: two consecutive iterates as the ends z̄ ± δ of a rod that moves and stretches smoothly.

The optimizer is a map z ↦ z + G(z) of weights and momenta z; ± denotes values at z̄ ± δ. Two consecutive iterates obey
Δz̄ = ½(G₊ + G₋) and Δ(δδᵀ) = ¼(G₊G₊ᵀ + G₋G₋ᵀ) − 2δδᵀ exactly, and with a = ½(G₊ + G₋), b = ½(G₊ − G₋) the flow is

    dz̄/dt = a − ½Āa,   Ā = ½(DG₊ + DG₋),        dΣ/dt = ½(aaᵀ + bbᵀ) − 2Σ,   Σ = δδᵀ.

Second moments do not oscillate: they follow the average of their update over the two ends, for RMSProp
dν/dt = (1 − β₂)[½(g₊² + g₋²) − ν].

What is left open, and chosen here:

- Σ has rank one, as iterates that alternate between two sides of a valley do: δ carries the amplitude of every critical
  direction at once. Of Σ + dt·dΣ/dt, a sum of three dyads, the best approximation of rank one in the norm of D⁻¹ is
  kept (momenta follow with the coefficients found for the weights). As dt → 0 a direction with eigenvalue λ then grows
  at the rate ½λλ̄ − ¼λ̄² − 1, with λ̄ that of δ: λ − 2 to first order, the rate of the optimizer itself.
- Of the drift a only the part along tracked directions (λ > eigs.track_above) enters Σ. The rest is no oscillation, and
  a rod of rank one that has to hold half a step of drift cannot hold the oscillation beside it.
- Time is stepped with Euler's method, Σ remaining positive for dt ≤ ½.
- Momenta are part of z, and a − ½Āa is the first-order expansion of a flow through the iterates z. A momentum decays by
  (1 − β) per step, for which the expansion is not small; the choice keeps one equation for all maps. Below the edge rod
  flow is therefore worse than the stable flow, which there is the optimizer itself: after 60 steps of heavy ball
  (β = 0.9) on a small tanh network that moved by 2.5, it was 0.04 away (Adam: 0.0036 of 0.26), the stable flow 1e-15.

Sources: Regis & Chewi, arXiv:2602.01480 (gradient descent) and arXiv:2605.06821 (momentum and second moments, in the
joint space of weights and first moment).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cflow_cli.curvature.block import combine, gram
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.flows.base import End, FlowState, Linearised, StepInfo, between, linearise
from cflow_cli.optimizers.classify import EVEN, ODD
from cflow_cli.optimizers.update_map import UpdateMap
from cflow_cli.problem import Problem

# Weights first, then the momenta in the order of the state's leaves.
Phase = tuple[Float[Array, " params"], ...]


class Moved(NamedTuple):
    """One step of the optimizer from a point z: G(z), its state after, and loss and gradient at z."""

    change: Phase
    after: Any
    end: End


class RodStepper(eqx.Module):
    """The step of rod flow over a time dt.

    Parameters
    ----------
    optimizer
        The update map G.
    eigs
        How eigenvalues are tracked; the rod takes up the drift along those above its ``track_above``.
    dt
        Part of an optimizer step, at most ½.
    """

    optimizer: UpdateMap
    eigs: EigsOptions = eqx.field(static=True)
    dt: float = eqx.field(static=True)

    def start(self, weights: Float[Array, " params"], block: int) -> Phase:
        """A rod of no length: the drift along the critical directions seeds it, as it does the optimizer's."""
        return (jnp.zeros_like(weights),) * (1 + self.optimizer.parity.count(ODD))

    def __call__(
        self, problem: Problem, state: FlowState, counters: Any, iterations: Int[Array, ""]
    ) -> tuple[FlowState, StepInfo]:
        """Take one sub-step; see :class:`cflow_cli.flows.base.Stepper`."""
        here = linearise(self.optimizer, self.eigs, problem, state, counters, iterations)
        rod = state.memory
        move = partial(self._move, problem, here.before)
        z = (state.weights, *self._momenta(here.before))

        def drift(z: Phase) -> Phase:
            return _mean(move(_plus(z, rod, 1.0)).change, move(_plus(z, rod, -1.0)).change)

        forward, backward = move(_plus(z, rod, 1.0)), move(_plus(z, rod, -1.0))
        a = _mean(forward.change, backward.change)
        b = _mean(forward.change, tuple(-x for x in backward.change))
        bending = jax.jvp(drift, (z,), (a,))[1]
        new_z = _plus(_plus(z, a, self.dt), bending, -self.dt / 2)
        new_rod = self._stretched(rod, self._seed(here, a), b, here.root)
        after = self._averaged(here.before, new_z[1:], forward.after, backward.after)
        # The bending of the drift takes a Hessian-vector product at either end, and their gradients again.
        info = here.info(between(here, rod[0], forward.end, backward.end), gradients=5, hvps=2)
        return FlowState(new_z[0], after, here.pairs.ahead, state.x, state.oscillates, new_rod), info

    def _momenta(self, state: Any) -> list[Array]:
        return [x for x, p in zip(jax.tree.leaves(state), self.optimizer.parity, strict=True) if p == ODD]

    def _move(self, problem: Problem, before: Any, z: Phase) -> Moved:
        """A step of the optimizer from z, with the second moments and counters of ``before``."""
        weights, momenta = z[0], iter(z[1:])
        here = [
            next(momenta) if p == ODD else x
            for x, p in zip(jax.tree.leaves(before), self.optimizer.parity, strict=True)
        ]
        end = End(*jax.value_and_grad(problem.loss)(weights))
        after, delta = self.optimizer(
            jax.tree.unflatten(jax.tree.structure(before), here), end.gradient, weights
        )
        changes = (new - old for new, old in zip(self._momenta(after), z[1:], strict=True))
        return Moved((delta, *changes), after, end)

    def _seed(self, here: Linearised, drift: Phase) -> Phase:
        """Of the drift the part along tracked directions, which the rod takes up."""
        u, covectors = here.pairs.vectors * here.root, here.pairs.vectors / here.root
        tracked = (here.pairs.values > self.eigs.track_above).astype(u.dtype)
        return (
            combine(gram(drift[0][None], covectors) * tracked, u)[0],
            # Momenta live where gradients do, in the dual of the weights.
            *(combine(gram(m[None], u) * tracked, covectors)[0] for m in drift[1:]),
        )

    def _averaged(self, before: Any, momenta: Phase, up: Any, down: Any) -> Any:
        """The optimizer's state after the step: momenta as given, second moments from the mean of both ends."""
        given, after = iter(momenta), []
        leaves = (jax.tree.leaves(state) for state in (before, up, down))
        for p, x, x_up, x_down in zip(self.optimizer.parity, *leaves, strict=True):
            if p == ODD:
                after.append(next(given))
            elif p == EVEN:
                after.append(x + self.dt * ((x_up + x_down) / 2 - x))
            else:
                after.append(x_up)
        return jax.tree.unflatten(jax.tree.structure(before), after)

    def _stretched(self, rod: Phase, seed: Phase, b: Phase, root: Array) -> Phase:
        """Best approximation of rank one to (1 − 2dt)δδᵀ + ½dt(aaᵀ + bbᵀ), from the Gram matrix of its dyads."""
        sizes = jnp.sqrt(jnp.asarray([1 - 2 * self.dt, self.dt / 2, self.dt / 2], root.dtype))
        dyads = [sizes[:, None] * jnp.stack(parts) for parts in zip(rod, seed, b, strict=True)]
        scaled = dyads[0] / root
        largest = jnp.max(jnp.abs(scaled))
        scaled = scaled / jnp.where(largest > 0, largest, 1)
        top = jnp.linalg.eigh(gram(scaled, scaled))[1][:, -1]
        return tuple(combine(top[None], rows)[0] for rows in dyads)


def _plus(z: Phase, direction: Phase, size: float) -> Phase:
    return tuple(x + size * v for x, v in zip(z, direction, strict=True))


def _mean(first: Phase, second: Phase) -> Phase:
    return tuple((x + y) / 2 for x, y in zip(first, second, strict=True))
