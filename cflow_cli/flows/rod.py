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

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..curvature.block import combine, gram, preconditioned, track
from ..optimizers.update_map import EVEN, ODD, UpdateMap
from ..problem import Problem
from .base import End, FlowState, FlowStep, between, status_of, with_counters

# Weights first, then the momenta in the order of the state's leaves.
Phase = tuple[Float[Array, " params"], ...]


class RodStepper(eqx.Module):
    """The step of rod flow over a time dt.

    Parameters
    ----------
    optimizer
        The update map G.
    dt
        Part of an optimizer step, at most ½.
    track_above, critical_above, tolerance
        As in :class:`cflow_cli.options.EigsOptions`.
    """

    optimizer: UpdateMap
    dt: float = eqx.field(static=True)
    track_above: float = eqx.field(static=True)
    critical_above: float = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)

    def start(self, weights: Float[Array, " params"], block: int) -> Phase:
        """A rod of no length: the drift along the critical directions seeds it, as it does the optimizer's."""
        return (jnp.zeros_like(weights),) * (1 + self.optimizer.parity.count(ODD))

    def __call__(
        self, problem: Problem, state: FlowState, counters: Any, iterations: Int[Array, ""]
    ) -> tuple[FlowState, FlowStep]:
        """Take one sub-step; see :class:`cflow_cli.flows.base.Stepper`."""
        w, rod = state.weights, state.memory
        linear = problem.linearize(w)
        d, _ = self.optimizer.linear_response(self.optimizer.upcoming(state.optimizer, counters))
        root = jnp.sqrt(d)
        pairs = track(
            preconditioned(linear.hvp, d),
            state.vectors,
            above=self.track_above,
            critical=self.critical_above,
            tolerance=self.tolerance,
            max_iterations=iterations,
        )
        before = with_counters(self.optimizer, state.optimizer, counters)
        leaves, parity = jax.tree.leaves(before), self.optimizer.parity
        z = (w, *(x for x, p in zip(leaves, parity, strict=True) if p == ODD))

        def move(z: Phase) -> tuple[Phase, tuple[list[Array], End]]:
            """G(z); the new state leaves, loss and gradient on the way."""
            weights, momenta = z[0], iter(z[1:])
            here = [next(momenta) if p == ODD else x for x, p in zip(leaves, parity, strict=True)]
            end = End(*jax.value_and_grad(problem.loss)(weights))
            new, delta = self.optimizer(
                jax.tree.unflatten(jax.tree.structure(before), here), end.gradient, weights
            )
            after = jax.tree.leaves(new)
            moved = (a - x for a, x, p in zip(after, here, parity, strict=True) if p == ODD)
            return (delta, *moved), (after, end)

        def ends(z: Phase) -> tuple[Phase, Phase]:
            return _plus(z, rod, 1.0), _plus(z, rod, -1.0)

        def drift(z: Phase) -> Phase:
            up, down = ends(z)
            return _mean(move(up)[0], move(down)[0])

        up, down = ends(z)
        (forward, (leaves_up, plus)), (backward, (leaves_down, minus)) = move(up), move(down)
        a, b = _mean(forward, backward), _mean(forward, tuple(-x for x in backward))
        bending = jax.jvp(drift, (z,), (a,))[1]
        new_z = _plus(_plus(z, a, self.dt), bending, -self.dt / 2)

        u, covectors = pairs.vectors * root, pairs.vectors / root
        tracked = (pairs.values > self.track_above).astype(w.dtype)
        seed = (
            combine(gram(a[0][None], covectors) * tracked, u)[0],
            # Momenta live where gradients do, in the dual of the weights.
            *(combine(gram(m[None], u) * tracked, covectors)[0] for m in a[1:]),
        )
        new_rod = self._stretched(rod, seed, b, root)

        momenta, after = iter(new_z[1:]), []
        for x, p, x_up, x_down in zip(leaves, parity, leaves_up, leaves_down, strict=True):
            if p == ODD:
                after.append(next(momenta))
            elif p == EVEN:
                after.append(x + self.dt * ((x_up + x_down) / 2 - x))
            else:
                after.append(x_up)
        optimizer = jax.tree.unflatten(jax.tree.structure(before), after)
        found = FlowStep(
            linear=linear,
            # The bending of the drift takes a Hessian-vector product at either end, and their gradients again.
            pairs=pairs._replace(hvps=pairs.hvps + 2),
            preconditioner=d,
            oscillation=between(linear, pairs, d, rod[0], plus, minus),
            gradients=jnp.asarray(5, jnp.int32),
            third_derivatives=jnp.zeros((), jnp.int32),
            status=status_of(pairs, d),
        )
        return FlowState(new_z[0], optimizer, pairs.ahead, state.x, state.oscillates, new_rod), found

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
