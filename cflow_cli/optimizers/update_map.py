"""An optax optimizer as a differentiable map, and its linear response at the edge of stability.

One full-batch step is (s, g) ↦ (s', Δ), w' = w + Δ. At the edge the iterates flip sign at every step,
w_t = w̄ + (−1)ᵗ δ, so the gradient carries (−1)ᵗ g̃ with g̃ = Hδ, and the state (−1)ᵗ s̃. Linearising the map,

    −s̃ = F_s s̃ + F_g g̃   ⇒   s̃ = R g̃,  R = −(I + F_s)⁻¹ F_g,
     Δ̃ = U_s s̃ + U_g g̃ = −D g̃   ⇒   D = −(U_s R + U_g),

and the oscillation is neutrally stable, Δ̃ = −2δ, exactly when D H δ = 2δ. The effective inverse preconditioner
D is diagonal for an elementwise optimizer, and everything here comes from automatic differentiation of the
optax object; no optimizer is known by name.

The point of linearisation is symmetric under g → −g: state leaves that change sign with the gradient (momenta)
and the gradient itself are zero, leaves that do not (second moments) keep their value. "Keep" refers to the value
*after* the update, the one that divides the step, so the even leaves and the counters are first moved one step back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from cflow_cli.optimizers.classify import COUNTER, EVEN, ODD, classify
from cflow_cli.optimizers.hyperparameters import constants, standing_for, with_constants

State = Any
Vector = Float[Array, " params"]


class UpdateMap(eqx.Module):
    """The update (s, g, w) ↦ (s', Δ) of an optax transformation with its response to an oscillation.

    Build with :meth:`of`.

    Parameters
    ----------
    transformation
        The optax object, learning rate and sign included (w' = w + Δ), or another one that differs from it in
        ``constants`` alone, so that both are one program.
    size, dtype
        Length n and dtype of the weight vector.
    parity
        For each leaf of the state, whether it is odd or even under g → −g, or a counter.
    uniform
        D is the same for all weights (gradient descent, one global ν); D then has shape (1,) instead of (n,).
    refusal
        None, or the sentence why the optimizer has no flow.
    stiffens
        Whether an oscillation can only shorten the step (D falls or stays), so that one variance of the oscillation
        holds S_eff at 2; not so for Yogi, whose second moment shrinks under small gradients.
    scheduled
        For each leaf of the state, whether it counts the steps of a learning-rate schedule.
    separate
        Whether the update of some of the weights is that of them alone; not where they share a second moment.
    coupled
        Whether it is refused because it is not elementwise: :mod:`.operator_map` is for such.
    constants
        Learning rate, decays and whatever other numbers the transformation closes over, as an array: no program is
        compiled again for others.
    """

    is_operator: ClassVar[bool] = False

    transformation: optax.GradientTransformation = eqx.field(static=True)
    size: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)
    parity: tuple[str, ...] = eqx.field(static=True)
    uniform: bool = eqx.field(static=True)
    refusal: str | None = eqx.field(static=True)
    stiffens: bool = eqx.field(static=True, default=True)
    scheduled: tuple[bool, ...] = eqx.field(static=True, default=())
    separate: bool = eqx.field(static=True, default=False)
    coupled: bool = eqx.field(static=True, default=False)
    constants: Float[Array, " constants"] | None = None

    @classmethod
    def of(cls, transformation: optax.GradientTransformation, w: Vector) -> UpdateMap:
        """Classify an optax transformation by probing it with random gradients of the size and dtype of ``w``."""
        built = _probed(cls, transformation, w.shape[0], w.dtype)
        # In the precision of the weights: an array of float64 would need it switched on.
        numbers = constants(transformation.update, w, transformation.init(w), w)
        return replace(
            built, transformation=standing_for(transformation, w), constants=jnp.asarray(numbers, w.dtype)
        )

    def _with_response(self, leaves: list[np.ndarray]) -> UpdateMap:
        """The same map with what its D tells, at a state with these leaves."""
        structure = jax.tree.structure(jax.eval_shape(self.init, np.zeros(self.size, self.dtype)))
        d, _ = jax.device_get(
            jax.jit(lambda leaves: self.linear_response(jax.tree.unflatten(structure, leaves)))(leaves)
        )
        if not np.all(np.isfinite(d) & (d > 0)):
            refusal = (
                "its update has no positive derivative in the gradient (sign-like or not smooth), "
                "so D is undefined"
            )
            return replace(self, refusal=refusal, separate=False)
        per_weight = any(
            p == EVEN and a.shape == (self.size,) for a, p in zip(leaves, self.parity, strict=True)
        )
        uniform = not per_weight and bool(np.all(d == d[0]))
        return replace(self, uniform=uniform, stiffens=not self.adaptive or self._softens_never())

    @property
    def adaptive(self) -> bool:
        """Whether some even floating state (a second moment) shapes the step."""
        return EVEN in self.parity

    @property
    def momenta(self) -> int:
        """Leaves of the state that oscillate as the gradient does."""
        return self.parity.count(ODD)

    def of_size(self, size: int) -> UpdateMap:
        """The same map for some of the weights, where they are ``separate``."""
        return replace(self, size=size)

    def init(self, w: Vector) -> State:
        """Initial optimizer state s₀."""
        return self.transformation.init(w)

    def __call__(self, state: State, g: Vector, w: Vector) -> tuple[State, Vector]:
        """One optimizer step: (s', Δ) = (F, U)(s, g; w)."""
        if self.constants is None:
            delta, new = self.transformation.update(g, state, w)
        else:
            delta, new = with_constants(self.transformation.update, self.constants, g, state, w)
        return new, delta

    def _update_leaves(self, like: State, leaves: Sequence[Array], g: Vector) -> tuple[list[Array], Vector]:
        """One step on a list of state leaves at w = 0, where a decoupled weight decay is silent."""
        state = jax.tree.unflatten(jax.tree.structure(like), leaves)
        new, delta = self(state, g, jnp.zeros_like(g))
        return jax.tree.leaves(new), delta

    def symmetric_point(self, state: State) -> State:
        """Momenta zero; second moments and counters such that one update at g = 0 brings those of ``state``."""
        zero = jnp.zeros(self.size, self.dtype)
        held = [
            jnp.zeros_like(x) if p == ODD else x
            for x, p in zip(jax.tree.leaves(state), self.parity, strict=True)
        ]
        updated, _ = self._update_leaves(state, held, zero)
        before = []
        for i, (x, p) in enumerate(zip(held, self.parity, strict=True)):
            if p == COUNTER:
                before.append(x - (updated[i] - x))
            elif p == EVEN:

                def own(value: Array, i: int = i) -> Array:
                    return self._update_leaves(state, [*held[:i], value, *held[i + 1 :]], zero)[0][i]

                decay = jax.jvp(own, (x,), (jnp.ones_like(x),))[1]
                decays = decay > 0
                moved = jnp.where(decays, x + (x - updated[i]) / jnp.where(decays, decay, 1), x)
                # A weight that never saw a gradient has ν = 0, where the root has no derivative.
                before.append(jnp.maximum(moved, jnp.finfo(x.dtype).tiny ** 0.75))
            else:
                before.append(x)
        return jax.tree.unflatten(jax.tree.structure(state), before)

    def upcoming(self, state: State, counters: State, ahead: int | Array = 0) -> State:
        """``state`` as :meth:`linear_response` sees the step that starts at ``counters``, or ``ahead`` steps later.

        That looks at the step which led to a state; the learning rate is already that of the step to come, while
        second moments and their bias correction belong together and stay.
        """
        if not any(self.scheduled):
            return state
        leaves = [
            c + 1 + jnp.asarray(ahead, c.dtype) if scheduled else x
            for x, c, scheduled in zip(
                jax.tree.leaves(state), jax.tree.leaves(counters), self.scheduled, strict=True
            )
        ]
        return jax.tree.unflatten(jax.tree.structure(state), leaves)

    def linear_response(self, state: State) -> tuple[Vector, list[Vector]]:
        """Effective inverse preconditioner D and the response R of each odd state leaf.

        D = −(U_s R + U_g) and R = −(I + F_s)⁻¹ F_g at the symmetric point: per coordinate a linear system as
        small as the number of momenta, from one forward derivative per momentum and one for the gradient.

        Returns
        -------
        D
            Shape (n,), or (1,) where it is uniform; in weight² per unit of loss.
        R
            One (n,) vector per odd leaf: s̃ = R g̃.
        """
        f_s, f_g, u_s, u_g = self._derivatives(state)
        r = _eliminate(_plus_identity(f_s), [-f for f in f_g])
        d = -u_g - sum((u * x for u, x in zip(u_s, r, strict=True)), jnp.zeros_like(u_g))
        return (d[:1] if self.uniform else d), r

    def growth(self, state: State) -> Vector:
        """How fast an oscillation grows just above the edge: κ = d ln|z| / dS_eff per step, at S_eff = 2.

        An oscillation δ, zδ, z²δ, … has z − 1 = −S_eff D(z)/D(−1) with D(z) = −(U_s(z − F_s)⁻¹F_g + U_g), from which
        κ = 1 / (1 − (2/D) U_s (I + F_s)⁻¹ R): 1 without momentum, (1 + β)/(1 − β) for heavy ball.

        Returns
        -------
        κ
            One per weight, shape (n,).
        """
        f_s, f_g, u_s, u_g = self._derivatives(state)
        matrix = _plus_identity(f_s)
        r = _eliminate(matrix, [-f for f in f_g])
        zero = jnp.zeros_like(u_g)
        d = -u_g - sum((u * x for u, x in zip(u_s, r, strict=True)), zero)
        again = _eliminate(matrix, r)
        return 1 / (1 - 2 / d * sum((u * x for u, x in zip(u_s, again, strict=True)), zero))

    def _derivatives(self, state: State) -> tuple[list[list[Vector]], list[Vector], list[Vector], Vector]:
        """F_s by columns, F_g, U_s and U_g at the symmetric point, per coordinate."""
        base = self.symmetric_point(state)
        leaves = jax.tree.leaves(base)
        odd = [i for i, p in enumerate(self.parity) if p == ODD]
        zero = jnp.zeros(self.size, self.dtype)
        one = jnp.ones_like(zero)

        def response(momenta: list[Array], g: Vector) -> tuple[list[Array], Vector]:
            values = list(leaves)
            for i, m in zip(odd, momenta, strict=True):
                values[i] = m
            new, delta = self._update_leaves(state, values, g)
            return [new[i] for i in odd], delta

        at = [leaves[i] for i in odd]
        still = [jnp.zeros_like(m) for m in at]
        _, (f_g, u_g) = jax.jvp(response, (at, zero), (still, one))
        f_s, u_s = [], []
        for j in range(len(odd)):
            direction = [
                jnp.ones_like(m) if i == j else z for i, (m, z) in enumerate(zip(at, still, strict=True))
            ]
            _, (column, out) = jax.jvp(response, (at, zero), (direction, jnp.zeros_like(zero)))
            f_s.append(column)
            u_s.append(out)
        return f_s, f_g, u_s, u_g

    def averaged(
        self, state: State, g: Vector, variance: Vector, w: Vector, response: list[Vector]
    ) -> tuple[State, Vector]:
        """Average of one step over the two phases of an oscillating gradient.

        ½ Σ± (F, U)(s ± R√v, g ± √v): the second-order average E[F(s + s̃, g + g̃)] without its Taylor expansion,
        which is exact for an EMA of g² and stays defined where the map has a kink.

        Parameters
        ----------
        state, g, w
            Averages of the optimizer state, gradient and weights.
        variance
            Variance v of each coordinate of the oscillating gradient, diag(G X Gᵀ); shape (n,).
        response
            R from :meth:`linear_response`.
        """
        # The average is smooth in v, its root is not: keep the derivative finite where v = 0.
        root = jnp.sqrt(jnp.maximum(variance, 0) + jnp.finfo(variance.dtype).tiny ** 0.75)

        def phase(sign: float) -> tuple[State, Vector]:
            leaves, momenta = jax.tree.leaves(state), iter(response)
            moved = [
                x + sign * next(momenta) * root if p == ODD else x
                for x, p in zip(leaves, self.parity, strict=True)
            ]
            return self(jax.tree.unflatten(jax.tree.structure(state), moved), g + sign * root, w)

        (up, forward), (down, backward) = phase(1.0), phase(-1.0)
        mean = jax.tree.map(
            lambda a, b: (a + b) / 2 if jnp.issubdtype(a.dtype, jnp.floating) else a, up, down
        )
        return mean, (forward + backward) / 2

    def part_of_step(self, state: State, new: State, g: Vector, w: Vector, dt: float) -> State:
        """State after a part ``dt`` of a step: s + (1 − βᵈᵗ)/(1 − β)·(s' − s), β = ∂F/∂s of each leaf.

        Every EMA or trace decays as βᵈᵗ; counters take their new value. With dt = 1 this is ``new``.
        """
        if dt == 1:
            return new
        leaves, updated = jax.tree.leaves(state), jax.tree.leaves(new)
        out = []
        for i, (x, y, p) in enumerate(zip(leaves, updated, self.parity, strict=True)):
            if p == COUNTER:
                out.append(y)
                continue

            def own(value: Array, i: int = i) -> Array:
                moved = jax.tree.unflatten(jax.tree.structure(state), [*leaves[:i], value, *leaves[i + 1 :]])
                return jax.tree.leaves(self(moved, g, w)[0])[i]

            decay = jax.jvp(own, (x,), (jnp.ones_like(x),))[1]
            slow = jnp.abs(1 - decay) < 1e-6
            safe = jnp.where(slow | (decay <= 0), 0.5, decay)
            part = jnp.where(slow, dt, jnp.where(decay <= 0, 1, (1 - safe**dt) / (1 - safe)))
            out.append(x + part.astype(x.dtype) * (y - x))
        return jax.tree.unflatten(jax.tree.structure(state), out)

    def _softens_never(self) -> bool:
        """Whether D falls or stays where an oscillation much smaller than the second moment sets in."""
        zero = jnp.zeros(self.size, self.dtype)
        state = self.init(zero)

        @jax.jit
        def response(variance: Array) -> Array:
            # Second moments of one, and so many steps that of most bias corrections nothing is left.
            fill = {ODD: 0, EVEN: 1, COUNTER: 1000}
            leaves = [
                jnp.full_like(x, fill[p]) for x, p in zip(jax.tree.leaves(state), self.parity, strict=True)
            ]
            base = jax.tree.unflatten(jax.tree.structure(state), leaves)
            _, r = self.linear_response(base)
            after, _ = self.averaged(base, zero, variance, zero, r)
            return self.linear_response(after)[0]

        still, oscillating = response(zero), response(zero + 0.1)
        return bool(jnp.all(oscillating <= still * (1 + 1e-5)))


def _plus_identity(columns: list[list[Array]]) -> list[list[Array]]:
    """I + F by rows, of F by columns."""
    size = len(columns)
    return [[columns[j][i] + (i == j) for j in range(size)] for i in range(size)]


def _eliminate(matrix: list[list[Array]], rhs: list[Array]) -> list[Array]:
    """Solve one small linear system per coordinate by elimination; entries are (n,) vectors."""
    m, b = [list(row) for row in matrix], list(rhs)
    for i in range(len(b)):
        for k in range(i + 1, len(b)):
            factor = m[k][i] / m[i][i]
            m[k] = [x - factor * y for x, y in zip(m[k], m[i], strict=True)]
            b[k] = b[k] - factor * b[i]
    for i in reversed(range(len(b))):
        b[i] = (b[i] - sum((m[i][j] * b[j] for j in range(i + 1, len(b))), jnp.zeros_like(b[i]))) / m[i][i]
    return b


# Six small compilations: a sweep over other keys takes the same optimizer again and again.
@lru_cache(maxsize=32)
def _probed(
    cls: type[UpdateMap], transformation: optax.GradientTransformation, size: int, dtype: Any
) -> UpdateMap:
    """An optimizer's map, its numbers still to be taken."""
    seen = classify(transformation, size, dtype)
    built = cls(transformation, size, dtype, seen.parity, False, seen.refusal, scheduled=seen.scheduled)
    built = replace(built, coupled=seen.coupled)
    if seen.refusal is not None:
        return built
    return replace(built, separate=seen.separate)._with_response(seen.leaves)
