"""One step of the central flow as a function of X, along the k directions that may oscillate.

What is as long as the weights is passed over as seldom as possible, in slices that stay in a CPU's cache: once each
for what is known of the step, for its linearisation in X, and for the step itself. The rest is algebra of packed
matrices (:func:`cflow_cli.flows.sdcp.pack`), with pairs = k(k + 1)/2 entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cflow_cli.curvature.block import combine, gram, overlaps, stack_evaluated
from cflow_cli.curvature.slices import Cut, in_slices, uncut
from cflow_cli.flows import sdcp
from cflow_cli.flows.base import FlowState, Linearised, damping, descent, has_jumped
from cflow_cli.flows.third_derivatives import ThirdDerivatives
from cflow_cli.optimizers.update_map import UpdateMap

# The averaged map is smooth in X, but its derivative needs some variance to be taken at: this part of the loss, which
# is far below any variance that matters and far above the rounding of float32.
_LEAST_VARIANCE = 1e-4


class Move(NamedTuple):
    """Where a step leads.

    Parameters
    ----------
    after
        State of the optimizer.
    delta
        Δw per unit of time, shape (n,).
    x
        X, shape (k, k).
    variance
        diag(HΣH), shape (n,).
    residual, solved
        See :class:`cflow_cli.flows.sdcp.Sdcp`.
    """

    after: Any
    delta: Float[Array, " params"]
    x: Float[Array, "k k"]
    variance: Float[Array, " params"]
    residual: Float[Array, ""]
    solved: Bool[Array, ""]


class Frame(NamedTuple):
    """What is known of a step before X is; made by :func:`frame_of`.

    Parameters
    ----------
    optimizer, dt, penalty
        As the stepper has them.
    w
        Weights, shape (n,).
    here
        What every flow knows there; of its eigenpairs the first k count.
    inverse
        D^-½, shape (n,) or (1,).
    third, packing
        Rows of third derivatives, shape (all pairs, n), and N = packing @ rows, shape (pairs, pairs).
    values
        λ, shape (k,).
    both
        Which entries of X may be anything but zero: both directions are critical; shape (k, k).
    phi
        Φ − 1 along each direction, shape (k,).
    third_u, gradient_u
        Third derivatives and gradient along the u_i, shapes (pairs, k) and (k,).
    """

    optimizer: UpdateMap
    dt: float
    penalty: bool
    w: Float[Array, " params"]
    here: Linearised
    inverse: Float[Array, " params_or_1"]
    third: Float[Array, "all_pairs params"]
    packing: Float[Array, "pairs pairs"]
    values: Float[Array, " k"]
    both: Bool[Array, "k k"]
    phi: Float[Array, " k"]
    third_u: Float[Array, "pairs k"]
    gradient_u: Float[Array, " k"]

    def turned(self, state: FlowState) -> Float[Array, "k k"]:
        """X of the step before in the directions of this one: a guess, with some variance along each."""
        turn = overlaps(self.here.pairs.vectors[: len(self.values)], state.vectors)
        guess = jnp.where(self.both, turn @ state.x @ turn.T, 0)
        least = _LEAST_VARIANCE * jnp.abs(self.here.linear.loss) + jnp.finfo(self.w.dtype).tiny
        return guess + jnp.diag(jnp.where(jnp.diag(self.both), least, 0).astype(self.w.dtype))

    def linearised(
        self, guess: Float[Array, "k k"]
    ) -> tuple[Float[Array, "k k"], Float[Array, "pairs pairs"]]:
        """α and β of A_next(X) = α + β[X], linearised about a guess of X; β acts on packed X.

        A_next(X) = diag(2 − λ) + 2Uᵀ(D'⁻¹ − D⁻¹)U − N·Δw must be positive semidefinite: no eigenvalue above 2.
        """
        k, separate = len(self.values), self.optimizer.separate
        i, j = sdcp.pairs(k)
        ahead = self._steps_ahead()
        sizes = jnp.where(self.both[i, j], jnp.asarray(sdcp.sizes(k), self.w.dtype), 0)[:, None]  # (pairs, 1)
        half = self.packing / 2 if self.penalty else jnp.zeros_like(self.packing)  # (pairs, pairs)
        half_u = half @ self.third_u * self.phi  # (pairs, k)

        def part(cut: Cut) -> tuple[tuple[Array, ...], None]:
            """What some of the weights add to N·Δw and Uᵀ(D'⁻¹ − D⁻¹)U, and to their derivatives by packed X."""
            third, v, hv, shrink = self._rows(cut)  # (pairs, m), (k, m), (k, m), (m,) or (1,)
            g, variance = self._forces(guess, cut)
            (delta, *rise), along = jax.linearize(lambda g, vs: self._end(cut, g, vs, ahead), g, variance)
            dg = combine(half, third) + combine(half_u, v) * shrink  # (pairs, m)
            dv = sizes * hv[i] * hv[j]  # (pairs, m)
            slopes = _slopes_of_weights if separate else _slopes
            d_delta, *d_rise = slopes(along, dg, dv, shrink**2)
            sums = [combine(third, delta[:, None])[:, 0], gram(third, d_delta)]
            for r, d_r in zip(rise, d_rise, strict=True):
                sums += [combine(v[i] * v[j], r[:, None])[:, 0], gram(v[i] * v[j], d_r)]
            return tuple(sums), None

        (moved, d_moved, *stiffer), _ = self._pass(part, whole=not separate)
        down = descent(self.values) * self.dt
        at_guess = (  # (pairs,)
            sdcp.pack(jnp.diag(jnp.maximum(2 - self.values, -down))) - self.dt * self.packing @ moved
        )
        beta = -self.dt * self.packing @ d_moved  # (pairs, pairs)
        if stiffer:
            at_guess = at_guess + 2 * sizes[:, 0] * stiffer[0]
            beta = beta + 2 * sizes * stiffer[1]
        return sdcp.unpack(at_guess - beta @ sdcp.pack(guess), k), beta

    def take(self, solution: sdcp.Sdcp) -> Move:
        """The step with the X that solves the conditions."""
        x = jnp.where(self.both, solution.x, 0)

        def part(cut: Cut) -> tuple[None, tuple[Any, Array, Array]]:
            g, variance = self._forces(x, cut)
            after, delta = self._step(cut, g, variance)
            return None, (after, delta, variance)

        _, (after, delta, variance) = self._pass(part, whole=not self.optimizer.separate)
        return Move(after, delta, x, variance, solution.residual, solution.converged)

    def _pass(self, part: Callable[[Cut], tuple[Any, Any]], whole: bool = False) -> tuple[Any, Any]:
        """One pass over the weights, in slices or all at once."""
        return part(uncut) if whole else in_slices(part, len(self.w), len(self.packing))

    def _rows(self, cut: Cut) -> tuple[Array, Array, Array, Array]:
        """Third derivatives, v, D^½ H D^½ v and D^-½ of some weights."""
        pairs, k = self.here.pairs, len(self.values)
        return (
            cut(self.third, len(self.packing)),
            cut(pairs.vectors, k),
            cut(pairs.products, k),
            cut(self.inverse),
        )

    def _forces(self, x: Float[Array, "k k"], cut: Cut) -> tuple[Array, Array]:
        """Average gradient Φ(∇L + ½⟨∇H, Σ⟩) and variance of the oscillating gradient, of some weights."""
        third, v, hv, shrink = self._rows(cut)
        force, force_u = cut(self.here.linear.gradient), self.gradient_u
        if self.penalty:
            mixed = 0.5 * sdcp.pack(x) @ self.packing
            force, force_u = force + combine(mixed[None], third)[0], force_u + mixed @ self.third_u
        # A product with ones, because sums over few long rows are slow.
        ones = jnp.ones((1, len(self.values)), self.w.dtype)
        variance = combine(ones, combine(x, hv) * hv)[0] * shrink**2
        return force + combine((self.phi * force_u)[None], v)[0] * shrink, variance

    def _step(self, cut: Cut, g: Array, variance: Array) -> tuple[Any, Array]:
        """State after the step and Δw per unit of time, of some weights."""
        w = cut(self.w)
        optimizer = self.optimizer.of_size(w.shape[0])
        before = jax.tree.map(cut, self.here.before)
        after, delta = optimizer.averaged(before, g, variance, w, [cut(r) for r in self.here.response])
        return optimizer.part_of_step(before, after, g, w, self.dt), delta

    def _end(self, cut: Cut, g: Array, variance: Array, ahead: Int[Array, ""] | int) -> list[Array]:
        """Δw per unit of time and, where D can change, the rise D/D' − 1 to the end of the step, of some weights."""
        after, delta = self._step(cut, g, variance)
        optimizer = self.optimizer.of_size(delta.shape[0])
        if not optimizer.adaptive:
            return [delta]
        d, _ = optimizer.linear_response(optimizer.upcoming(after, self.here.before, ahead))
        return [delta, jnp.broadcast_to(cut(self.here.root) ** 2 / d - 1, g.shape)]

    def _steps_ahead(self) -> Int[Array, ""] | int:
        """By how many steps the learning rate at the end of the step is a later one.

        The end of the step is where the next one starts, at its learning rate. Not at a jump upwards: from there the
        flow comes down, as from any start above the edge.
        """
        optimizer, before = self.optimizer, self.here.before
        if not any(optimizer.scheduled):
            return 0
        later, _ = optimizer.linear_response(optimizer.upcoming(before, before, 1))
        now, _ = optimizer.linear_response(optimizer.upcoming(before, before))
        return jnp.where(has_jumped(jnp.max(later / now)), 0, 1)


def frame_of(
    optimizer: UpdateMap,
    w: Float[Array, " params"],
    here: Linearised,
    third: ThirdDerivatives,
    critical: Int[Array, ""],
    k: int,
    *,
    dt: float,
    penalty: bool = True,
    damped: bool = True,
) -> Frame:
    """The frame of a step from w over a time ``dt``.

    Parameters
    ----------
    optimizer, w, here, third
        The update map, the weights, and what was found there.
    critical, k
        How many directions are critical, and how many the algebra has room for.
    dt, penalty, damped
        As in :class:`cflow_cli.flows.central.CentralStepper`.
    """
    pairs = k * (k + 1) // 2
    active = jnp.arange(k) < critical
    values = here.pairs.values[:k]

    def part(cut: Cut) -> tuple[tuple[Array, Array], None]:
        u = cut(here.pairs.vectors, k) * cut(here.root)
        rows, gradient = cut(third.rows, pairs), cut(here.linear.gradient)
        return (gram(rows, u), combine(u, gradient[:, None])[:, 0]), None

    (third_u, gradient_u), _ = in_slices(part, len(w), pairs)
    return Frame(
        optimizer=optimizer,
        dt=dt,
        penalty=penalty,
        w=w,
        here=here,
        inverse=1 / here.root,
        third=third.rows,
        packing=third.packing[:pairs, :pairs],
        values=values,
        both=active[:, None] & active[None, :],
        phi=damping(active & damped, values, dt),
        third_u=third_u,
        gradient_u=gradient_u,
    )


Along = Callable[..., list[Array]]


def _slopes(along: Along, dg: Array, dv: Array, square: Array) -> list[Array]:
    """Derivatives by packed X of what a step leads to: along each row of those of its two forces; (pairs, m) each."""
    return jax.vmap(along)(dg, dv * square)


def _slopes_of_weights(along: Along, dg: Array, dv: Array, square: Array) -> list[Array]:
    """The same where no weight's state depends on another's: the sums of its rows are all of the derivative."""
    one, zero = jnp.ones_like(dg[0]), jnp.zeros_like(dg[0])
    slopes = stack_evaluated([*along(one, zero), *(s * square for s in along(zero, one))])
    half = len(slopes) // 2
    return [a * dg + b * dv for a, b in zip(slopes[:half], slopes[half:], strict=True)]
