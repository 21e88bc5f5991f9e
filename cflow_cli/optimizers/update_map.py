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

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from ..errors import UserError
from .hyperparameters import constants, with_constants

State = Any
Vector = Float[Array, " params"]

ODD, EVEN, COUNTER = "odd", "even", "counter"


class UpdateMap(eqx.Module):
    """The update (s, g, w) ↦ (s', Δ) of an optax transformation with its response to an oscillation.

    Build with :meth:`of`.

    Parameters
    ----------
    transformation
        The optax object, learning rate and sign included (w' = w + Δ).
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
    constants
        Learning rate, decays and whatever other numbers the transformation closes over, as an array: no program is
        compiled again for others.
    """

    transformation: optax.GradientTransformation = eqx.field(static=True)
    size: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)
    parity: tuple[str, ...] = eqx.field(static=True)
    uniform: bool = eqx.field(static=True)
    refusal: str | None = eqx.field(static=True)
    stiffens: bool = eqx.field(static=True, default=True)
    scheduled: tuple[bool, ...] = eqx.field(static=True, default=())
    separate: bool = eqx.field(static=True, default=False)
    constants: Float[Array, " constants"] | None = None

    @classmethod
    def of(cls, transformation: optax.GradientTransformation, w: Vector) -> UpdateMap:
        """Classify an optax transformation by probing it with random gradients of the size and dtype of ``w``."""
        built = _classify(cls, transformation, w.shape[0], w.dtype)
        # In the precision of the weights: an array of float64 would need it switched on.
        found = constants(transformation.update, w, transformation.init(w), w)
        return replace(built, constants=jnp.asarray(found, w.dtype))

    @property
    def adaptive(self) -> bool:
        """Whether some even floating state (a second moment) shapes the step."""
        return EVEN in self.parity

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
        r = _solve(
            [[f_s[j][i] + (i == j) for j in range(len(odd))] for i in range(len(odd))], [-f for f in f_g]
        )
        d = -u_g - sum((u * x for u, x in zip(u_s, r, strict=True)), jnp.zeros_like(zero))
        return (d[:1] if self.uniform else d), r

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


def _solve(matrix: list[list[Array]], rhs: list[Array]) -> list[Array]:
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


def _classify(
    cls: type[UpdateMap], transformation: optax.GradientTransformation, size: int, dtype: Any
) -> UpdateMap:
    """Probe an optimizer with a few random gradients: parity of its state, smoothness, coupling of coordinates."""
    # Compared on the host: each operation outside of a compiled function would be compiled, for tens of milliseconds.
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((4, size)).astype(dtype)
    w = np.zeros(size, dtype)
    first = np.arange(size) < (size + 1) // 2

    run = _stepped(transformation)
    try:
        plus, minus = run(gradients, w), run(-gradients, w)
    except Exception as error:
        raise UserError(
            f"the optimizer cannot step a flat weight vector ({type(error).__name__}: {error}); "
            "pass an optax GradientTransformation"
        ) from error

    refusal = None
    parity = []

    def close(a: np.ndarray, b: np.ndarray) -> bool:
        # Relative to the largest entry: Yogi starts its momentum at 1e-6 instead of 0.
        with np.errstate(all="ignore"):
            return bool(np.max(np.abs(a - b)) <= 1e-4 * np.max(np.abs(a)))

    for a, b in zip(plus[0], minus[0], strict=True):
        if not jnp.issubdtype(a.dtype, jnp.floating):
            parity.append(COUNTER)
        elif close(a, b):
            parity.append(EVEN)
        elif close(a, -b) and a.shape == (size,):
            parity.append(ODD)
        else:
            parity.append(EVEN)
            refusal = (
                "its state neither keeps nor flips its sign with the gradient (a random or lopsided update)"
            )
    if not close(plus[1], -minus[1]):
        refusal = "its update does not flip its sign with the gradient (a random or lopsided update)"

    shared = any(p == EVEN and a.shape == () for a, p in zip(plus[0], parity, strict=True))
    if refusal is None and not shared and size > 1:
        for scale in (1e-3, 1.0, 1e3):
            probe = (gradients * scale).astype(dtype)
            moved = np.concatenate([probe[:-1], np.where(first, probe[-1:], 3 * probe[-1:])])
            before, after = (run(gs, gradients[0])[1] for gs in (probe, moved))
            if not close(np.where(first, before, 0), np.where(first, after, 0)):
                refusal = (
                    "its update mixes coordinates (a norm or a matrix of the gradient), so D is not diagonal"
                )
                break
    if refusal is None:
        refusal = _shape_dependence(transformation, dtype)

    scheduled = _scheduled(jax.eval_shape(transformation.init, w))
    built = cls(transformation, size, dtype, tuple(parity), False, refusal, scheduled=scheduled)
    if refusal is not None:
        return built
    d, _ = jax.device_get(
        jax.jit(lambda leaves: built.linear_response(_state_like(transformation, w, leaves)))(plus[0])
    )
    if not np.all(np.isfinite(d) & (d > 0)):
        refusal = "its update has no positive derivative in the gradient (sign-like or not smooth), so D is undefined"
    per_weight = any(p == EVEN and a.shape == (size,) for a, p in zip(plus[0], parity, strict=True))
    uniform = not per_weight and refusal is None and bool(np.all(d == d[0]))
    half = max(size // 2, 1)
    try:
        alone = run(gradients[:, :half], w[:half])[1]
        separate = refusal is None and close(plus[1][:half], alone)
    except Exception:  # an optimizer that only takes the flat vector of this problem
        separate = False
    stiffens = refusal is not None or EVEN not in parity or _stiffens(built)
    return cls(transformation, size, dtype, tuple(parity), uniform, refusal, stiffens, scheduled, separate)


def _stepped(
    transformation: optax.GradientTransformation,
) -> Callable[[np.ndarray, np.ndarray], tuple[list[np.ndarray], np.ndarray]]:
    """(g_1 … g_m, w) ↦ leaves of the state after steps with these gradients, and the last Δ, on the host."""

    @jax.jit
    def steps(gs: Array, w: Array) -> tuple[list[Array], Array]:
        state, delta = transformation.init(w), w
        for g in gs:
            delta, state = transformation.update(g, state, w)
        return jax.tree.leaves(state), delta

    def run(gs: np.ndarray, w: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        found: tuple[list[np.ndarray], np.ndarray] = jax.device_get(steps(gs, w))
        return found

    return run


def _scheduled(state: State) -> tuple[bool, ...]:
    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    def mark(node: Any) -> Any:
        return jax.tree.map(lambda _: is_schedule(node), node)

    return tuple(jax.tree.leaves(jax.tree.map(mark, state, is_leaf=is_schedule)))


def _stiffens(update: UpdateMap) -> bool:
    """Whether D falls or stays where an oscillation much smaller than the second moment sets in."""
    zero = jnp.zeros(update.size, update.dtype)
    state = update.init(zero)

    @jax.jit
    def response(variance: Array) -> Array:
        fill = {ODD: 0, EVEN: 1, COUNTER: 1000}
        leaves = [
            jnp.full_like(x, fill[p]) for x, p in zip(jax.tree.leaves(state), update.parity, strict=True)
        ]
        base = jax.tree.unflatten(jax.tree.structure(state), leaves)
        _, r = update.linear_response(base)
        after, _ = update.averaged(base, zero, variance, zero, r)
        return update.linear_response(after)[0]

    still, oscillating = response(zero), response(zero + 0.1)
    return bool(jnp.all(oscillating <= still * (1 + 1e-5)))


def _state_like(transformation: optax.GradientTransformation, w: Any, leaves: list[Array]) -> State:
    return jax.tree.unflatten(jax.tree.structure(jax.eval_shape(transformation.init, w)), leaves)


def _shape_dependence(transformation: optax.GradientTransformation, dtype: Any) -> str | None:
    """A refusal if the update of a matrix differs from that of its entries in a row (Muon, Shampoo)."""
    rng = np.random.default_rng(1)
    gs = rng.standard_normal((2, 4, 4)).astype(dtype)

    run = _stepped(transformation)
    try:
        matrix, row = (run(g, np.zeros_like(g[0]))[1] for g in (gs, gs.reshape(2, 16)))
    except Exception:  # an optimizer that only takes the flat vector of this problem cannot depend on shapes
        return None
    if not np.allclose(matrix.reshape(16), row, rtol=1e-3, atol=1e-30):
        return "it treats a matrix of weights differently from its entries, and cflow steps one flat vector"
    return None
