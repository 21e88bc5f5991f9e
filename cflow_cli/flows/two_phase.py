"""Two-phase flow: the optimizer in even and odd coordinates, a centre and an oscillation that changes sign each step.

With Φ one step of the optimizer on weights and state z, and ± for values at z̄ ± ζ,

    z̄' = ½(Φ₊ + Φ₋),        ζ' = −½(Φ₊ − Φ₋)                                                    (1)

is exact: z̄_t + (−1)ᵗζ_t and z̄_t − (−1)ᵗζ_t are both runs of Φ. Complex roots and the slow decay of a momentum,
oscillations of finite size and a late reaction to them are all in there. Four changes make it a model of averages, in
terms of the tracked pairs λ_i, v_i of D^½ H D^½, directions u_i = D^½v_i and covectors c_i = D^-½v_i; ζ = (δ, μ) are
the odd parts of weights and momenta:

- *Gauge.* The centre does not oscillate: where λ_i > eigs.critical_above it moves as the central flow does, with
  ḡ + Σ((1 − e^{−λ_i})/λ_i − 1)(u_iᵀḡ)c_i for ḡ = ½(g₊ + g₋).
- *Hand-over.* What the centre leaves out for that goes to the oscillation, (−1)ᵗ⁺¹ times as it has no other sign.
- *Seed.* An oscillation starts from the kicks that the optimizer gets, else from rounding: where λ_i > seeded_above,
  x_i = c_iᵀδ takes up, in squares, the median |N(0, 1)| = 0.67 of κ c_iᵀ(kick), with κ = d ln|z|/dS_eff
  (:meth:`~cflow_cli.optimizers.update_map.UpdateMap.growth`): what comes later than the kick has grown that much. The
  momenta take up their share R λ_i.
- *Projection.* Of ζ only tracked directions with λ_i > kept_above are kept.

Second moments have no odd part: they are the mean of both ends. Predictions are means of both ends, too, and S_eff is
λ_1 at the centre: it rises above 2 before each burst, where the central flow stays at 2.

A step costs a linearisation, one block of Hessian-vector products and two more gradients; there are no third
derivatives and no complementarity problem.

(1) is the change of variables that rod flow begins with (Regis & Chewi, arXiv:2605.06821); the rest is derived here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cflow_cli.curvature.block import combine, gram
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.flows.base import End, FlowState, Linearised, StepInfo, between, damping, linearise
from cflow_cli.optimizers.classify import ODD
from cflow_cli.optimizers.update_map import UpdateMap
from cflow_cli.problem import Problem

# Of a normal variable, the median of its size.
_MEDIAN = 0.67


class Point(NamedTuple):
    """Weights and state of the optimizer, or the odd parts of both: zero for what does not oscillate, as counters."""

    weights: Float[Array, " params"]
    optimizer: Any


def ends(centre: Point, odd: Point) -> tuple[Point, Point]:
    """z̄ + ζ and z̄ − ζ; counters are those of z̄."""

    def end(sign: float) -> Point:
        return jax.tree.map(
            lambda x, y: x + sign * y if jnp.issubdtype(x.dtype, jnp.floating) else x, centre, odd
        )

    return end(1.0), end(-1.0)


def alternate(
    optimizer: UpdateMap,
    centre: Point,
    odd: Point,
    plus: Float[Array, " params"],
    minus: Float[Array, " params"],
) -> tuple[Point, Point]:
    """One step in even and odd coordinates: z̄' = ½(Φ₊ + Φ₋), ζ' = −½(Φ₊ − Φ₋).

    Parameters
    ----------
    optimizer
        The step Φ.
    centre, odd
        z̄ and ζ, of one form.
    plus, minus
        Gradients at the two ends.
    """
    (up, forward), (down, backward) = (
        optimizer(end.optimizer, g, end.weights)
        for end, g in zip(ends(centre, odd), (plus, minus), strict=True)
    )

    def mean(x: Array, y: Array) -> Array:
        return (x + y) / 2 if jnp.issubdtype(x.dtype, jnp.floating) else x

    def half(x: Array, y: Array) -> Array:
        return (y - x) / 2 if jnp.issubdtype(x.dtype, jnp.floating) else jnp.zeros_like(x)

    # Steps, not ends: δ is often less than the rounding of the weights.
    return (
        Point(centre.weights + (forward + backward) / 2, jax.tree.map(mean, up, down)),
        Point(-odd.weights - (forward - backward) / 2, jax.tree.map(half, up, down)),
    )


class Swing(NamedTuple):
    """What the flow remembers: δ, the μ of each momentum in the order of the state's leaves, and steps taken."""

    weights: Float[Array, " params"]
    momenta: tuple[Float[Array, " params"], ...]
    step: Int[Array, ""]


class TwoPhaseStepper(eqx.Module):
    """The step of the two-phase flow, always a whole one of the optimizer.

    Parameters
    ----------
    optimizer
        The update map Φ.
    eigs
        How eigenvalues are tracked; the centre does not oscillate along those above its ``critical_above``.
    noise, seeded_above, kept_above
        As in :class:`cflow_cli.flows.options.TwoPhase`.
    """

    optimizer: UpdateMap
    eigs: EigsOptions = eqx.field(static=True)
    noise: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    seeded_above: float = eqx.field(static=True)
    kept_above: float = eqx.field(static=True)

    def start(self, weights: Float[Array, " params"], block: int) -> Swing:
        """No oscillation: the drift along critical directions and the seed bring one."""
        zero = jnp.zeros_like(weights)
        return Swing(zero, (zero,) * self.optimizer.momenta, jnp.zeros((), jnp.int32))

    def __call__(
        self, problem: Problem, state: FlowState, counters: Any, iterations: Int[Array, ""]
    ) -> tuple[FlowState, StepInfo]:
        """Take one step; see :class:`cflow_cli.flows.base.Stepper`."""
        here = linearise(self.optimizer, self.eigs, problem, state, counters, iterations)
        u, c = here.pairs.vectors * here.root, here.pairs.vectors / here.root
        centre = Point(state.weights, here.before)
        odd = self._odd(here.before, state.memory)
        plus, minus = (End(*jax.value_and_grad(problem.loss)(end.weights)) for end in ends(centre, odd))

        critical = here.pairs.values > self.eigs.critical_above
        along = gram(u, (plus.gradient + minus.gradient)[None])[:, 0] / 2
        held_back = combine((damping(critical, here.pairs.values, 1.0) * along)[None], c)[0]
        free, _ = alternate(self.optimizer, centre, odd, plus.gradient, minus.gradient)
        held, swung = alternate(
            self.optimizer, centre, odd, plus.gradient + held_back, minus.gradient + held_back
        )
        handed = jax.tree.map(lambda x, y: x - y, self._oscillating(free), self._oscillating(held))
        sign = jnp.where(state.memory.step % 2 == 0, -1, 1).astype(u.dtype)
        swing = jax.tree.map(lambda x, k: x + sign * k, self._oscillating(swung), handed)

        x, *p = (gram(rows, part[None])[:, 0] for rows, part in zip((c, *(u for _ in swing[1:])), swing))
        x, p = self._seeded(state, here, c, x, p)
        kept = jnp.where(here.pairs.values > self.kept_above, 1, 0).astype(u.dtype)
        memory = Swing(
            combine((kept * x)[None], u)[0],
            tuple(combine((kept * along)[None], c)[0] for along in p),
            state.memory.step + 1,
        )
        info = here.info(between(here, odd.weights, plus, minus), gradients=3)
        new = FlowState(held.weights, held.optimizer, here.pairs.ahead, state.x, state.oscillates, memory)
        return new, info

    def _odd(self, before: Any, swing: Swing) -> Point:
        """ζ in the form of z̄, zero where the flow has no odd part."""
        momenta = iter(swing.momenta)
        leaves = [
            next(momenta) if p == ODD else jnp.zeros_like(x)
            for x, p in zip(jax.tree.leaves(before), self.optimizer.parity, strict=True)
        ]
        return Point(swing.weights, jax.tree.unflatten(jax.tree.structure(before), leaves))

    def _oscillating(self, point: Point) -> tuple[Array, ...]:
        """Weights and momenta."""
        leaves = jax.tree.leaves(point.optimizer)
        return (
            point.weights,
            *(x for x, p in zip(leaves, self.optimizer.parity, strict=True) if p == ODD),
        )

    def _seeded(
        self, state: FlowState, here: Linearised, c: Array, x: Array, p: list[Array]
    ) -> tuple[Array, list[Array]]:
        """Components x_i of δ and p_i of each momentum with what kicks and rounding add in one step."""
        values, squares = here.pairs.values, here.pairs.vectors**2
        rounding = jnp.finfo(x.dtype).eps * jnp.linalg.norm(state.weights)
        noise = jnp.hypot(self.noise.astype(x.dtype), rounding) / state.weights.shape[0] ** 0.5
        growth = squares @ self.optimizer.growth(here.before)
        size = _MEDIAN * growth * noise * jnp.linalg.norm(c, axis=1)
        seeded = jnp.where(values > self.seeded_above, jnp.where(x < 0, -1, 1) * jnp.hypot(x, size), x)
        share = ((squares @ r) * values * (seeded - x) for r in here.response)
        return seeded, [along + more for along, more in zip(p, share, strict=True)]
