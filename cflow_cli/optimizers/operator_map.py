"""The response of an optimizer that is not elementwise: D as a linear operator.

The even results of the update (norms, second moments, Gram matrices and their roots: :mod:`.parity`) are held at their
average over the oscillation, taken where they become even,

    ē = e(m̄) + ½ Σ_ij X_ij D²e(m̄)[t_i, t_j],

with t_i the tangent of the odd arguments along critical direction i; exact for the bilinear primitives that make nearly
all of them: E[GGᵀ] = ḠḠᵀ + Σ X_ij G̃_i G̃_jᵀ. What remains is linear in the gradient and the odd state,

    −s̃ = F_s s̃ + F_g g̃,   D g̃ = −(U_s s̃ + U_g g̃),

and s̃ lies in the Krylov space of F_s and F_g g̃, whose dimension is the number of different momenta. Only
forward derivatives are taken, and no symmetric point is needed: g/‖g‖ has none.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from cflow_cli.optimizers.classify import EVEN, ODD
from cflow_cli.optimizers.parity import Line, Program, bending, derivative

State = Any
Vector = Float[Array, " params"]
Rows = Float[Array, "rows params"]


class Held(NamedTuple):
    """What D is made of: even results of an update, and the step that its schedules are at.

    Parameters
    ----------
    values
        Those that :attr:`Split.held` names.
    clock
        Counters of schedules, the leaves that ``scheduled`` marks.
    """

    values: tuple[Array, ...]
    clock: tuple[Array, ...]


class Split(NamedTuple):
    """What of a program is odd, what is held, and what the clock decides.

    Parameters
    ----------
    program
        Of (g, leaves of the state, w): leaves of the new state, Δ.
    parity
        Of every place of it.
    clock
        Lines that depend on nothing but the counter of a schedule.
    response
        Lines with odd results on the way from gradient and momenta to step and momenta.
    held
        Places whose values the response needs.
    """

    program: Program
    parity: dict[int, str]
    clock: tuple[Line, ...]
    response: tuple[Line, ...]
    held: tuple[int, ...]


class Shape:
    """A split under one name for the compiler: equal only to itself."""

    def __init__(self, split: Split) -> None:
        self.split = split


class OperatorMap(eqx.Module):
    """The update (s, g, w) ↦ (s', Δ) of an optax transformation whose D is no diagonal matrix.

    Build with :func:`cflow_cli.optimizers.probing.operator_map_of`. Fields are those of
    :class:`~cflow_cli.optimizers.update_map.UpdateMap`, and

    Parameters
    ----------
    shape
        The split of its update; None where it is refused.
    momenta
        Dimension of the Krylov space of the momenta.
    """

    separate: ClassVar[bool] = False
    uniform: ClassVar[bool] = False
    stiffens: ClassVar[bool] = True

    transformation: optax.GradientTransformation = eqx.field(static=True)
    size: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)
    parity: tuple[str, ...] = eqx.field(static=True)
    refusal: str | None = eqx.field(static=True)
    scheduled: tuple[bool, ...] = eqx.field(static=True)
    shape: Shape | None = eqx.field(static=True, default=None)
    momenta: int = eqx.field(static=True, default=0)

    @property
    def is_operator(self) -> bool:
        """Whether there is a D, and it is an operator."""
        return self.refusal is None

    @property
    def adaptive(self) -> bool:
        """Whether some even floating state (a second moment) shapes the step."""
        return EVEN in self.parity

    def init(self, w: Vector) -> State:
        """Initial optimizer state s₀."""
        return self.transformation.init(w)

    def __call__(self, state: State, g: Vector, w: Vector) -> tuple[State, Vector]:
        """One optimizer step: (s', Δ) = (F, U)(s, g; w)."""
        delta, new = self.transformation.update(g, state, w)
        return new, delta

    # --- the response -------------------------------------------------------------------------------

    # Traced once for each form of arguments, however often a step needs it.
    @eqx.filter_jit
    def averaged(
        self,
        state: State,
        g: Vector,
        w: Vector,
        tangents: Rows | None = None,
        x: Float[Array, "rows rows"] | None = None,
        momenta: list[Array] | None = None,
    ) -> tuple[State, Vector, Held]:
        """Average of one step over an oscillating gradient, and the even results that this step holds.

        Parameters
        ----------
        state, g, w
            Averages of the optimizer state, gradient and weights.
        tangents
            Rows g̃_i of the gradient's oscillation, shape (k, n); None for none.
        x
            Its covariance X, shape (k, k).
        momenta
            Rows of the oscillation of each odd leaf, from :meth:`response`.
        """
        split = self._split
        program, parity = split.program, split.parity
        arguments = [g, *jax.tree.leaves(state), w]
        known = program.constants | dict(zip(program.inputs, arguments, strict=True))
        rows: dict[int, Array] = {}
        weighted: dict[int, Array] = {}
        if tangents is not None and x is not None:
            rows = dict(zip(self.odd_inputs, [tangents, *(momenta or [])], strict=True))
            weighted = {p: jnp.tensordot(x, t, 1) for p, t in rows.items()}
        for line in program.lines:
            found = dict(zip(line.outputs, line.call(*(known[i] for i in line.inputs)), strict=True))
            if any(i in rows for i in line.inputs):
                odd = [o for o in line.outputs if parity[o] == ODD]
                if odd:
                    tangents_of = derivative(program, line, known, rows)
                    rows |= {o: tangents_of[o] for o in odd}
                    weighted |= {o: jnp.tensordot(jnp.asarray(x), rows[o], 1) for o in odd}
                elif any(program.is_float(o) for o in line.outputs):
                    found |= {
                        o: found[o] + bent
                        for o, bent in bending(program, line, known, rows, weighted).items()
                    }
            known |= found
        *leaves, delta = (known[o] for o in program.outputs)
        after = jax.tree.unflatten(jax.tree.structure(state), leaves)
        return after, delta, Held(tuple(known[p] for p in split.held), self.clock_of(state))

    @eqx.filter_jit
    def response(self, held: Held, rows: Rows) -> tuple[Rows, list[Array]]:
        """D times rows of gradients, and the oscillation s̃ of each odd leaf along them.

        Parameters
        ----------
        held
            From :meth:`averaged`.
        rows
            Gradients, shape (rows, n).

        Returns
        -------
        D rows
            Shape (rows, n).
        s̃
            An array per odd leaf, with a leading axis for the rows.
        """
        clock = self.timed(held.clock)
        step = self.linear(held, clock, {self.odd_inputs[0]: rows})
        delta = step[-1]
        if not self.momenta:
            return -delta, [jnp.zeros((len(rows), *a.shape), a.dtype) for a in self.odd_avals]
        basis, images, deltas = [step[:-1]], [], []
        for i in range(self.momenta):
            *image, out = self.linear(held, clock, dict(zip(self.odd_inputs[1:], basis[i], strict=True)))
            images.append(image)
            deltas.append(out)
            basis.append(image)
        flat = [jnp.concatenate([a.reshape(len(rows), -1) for a in leaves], 1) for leaves in basis]
        ahead = jnp.stack([b + f for b, f in pairwise(flat)], 1)  # (rows, momenta, entries)
        c = jax.vmap(_least_squares)(ahead, -flat[0])  # (rows, momenta)
        momenta = [
            sum(c[:, i].reshape(-1, *[1] * (a.ndim - 1)) * basis[i][leaf] for i in range(self.momenta))
            for leaf, a in enumerate(basis[0])
        ]
        return -delta - sum(c[:, i, None] * d for i, d in enumerate(deltas)), momenta  # type: ignore[return-value]

    def held(self, state: State, g: Vector, w: Vector) -> Held:
        """What one step holds without an oscillation."""
        return self.averaged(state, g, w)[2]

    def nothing_held(self) -> Held:
        """Zeros of the form of :class:`Held`."""
        program = self._split.program
        avals = [program.avals[p] for p in self._split.held]
        own = [program.avals[p] for p, s in zip(program.inputs[1:-1], self.scheduled, strict=True) if s]
        values, clock = (tuple(jnp.zeros(a.shape, a.dtype) for a in places) for places in (avals, own))
        return Held(values, clock)

    def clock_of(self, state: State) -> tuple[Array, ...]:
        """The counters of schedules in a state."""
        return tuple(x for x, s in zip(jax.tree.leaves(state), self.scheduled, strict=True) if s)

    @property
    def _split(self) -> Split:
        assert self.shape is not None
        return self.shape.split

    @property
    def odd_inputs(self) -> list[int]:
        """Places of the gradient and the odd leaves."""
        g, *leaves = self._split.program.inputs[:-1]
        return [g, *(place for place, p in zip(leaves, self.parity, strict=True) if p == ODD)]

    @property
    def odd_avals(self) -> list[Any]:
        """Shapes and dtypes of the odd leaves."""
        return [self._split.program.avals[p] for p in self.odd_inputs[1:]]

    def timed(self, clock: tuple[Array, ...]) -> dict[int, Any]:
        """Values that depend on nothing but the counter of a schedule."""
        program = self._split.program
        places = [p for p, s in zip(program.inputs[1:-1], self.scheduled, strict=True) if s]
        return program.run(dict(zip(places, clock, strict=True)), self._split.clock)

    def linear(self, held: Held, timed: dict[int, Any], rows: dict[int, Array]) -> list[Array]:
        """(F, U) on rows of odd arguments: those of the new odd leaves, and of Δ."""
        split = self._split
        known = timed | dict(zip(split.held, held.values, strict=True))
        count = next(iter(rows.values())).shape[0]
        for line in split.response:
            if any(i in rows for i in line.inputs):
                found = derivative(split.program, line, known, rows)
                rows = rows | {o: t for o, t in found.items() if split.parity[o] == ODD}
        *leaves, delta = split.program.outputs
        wanted = [*(o for o, p in zip(leaves, self.parity, strict=True) if p == ODD), delta]
        nothing = [(split.program.avals[o].shape, split.program.avals[o].dtype) for o in wanted]
        return [
            rows[o] if o in rows else jnp.zeros((count, *shape), dtype)
            for o, (shape, dtype) in zip(wanted, nothing, strict=True)
        ]


def _least_squares(rows: Float[Array, "few entries"], target: Float[Array, " entries"]) -> Array:
    """Coefficients of ``rows`` whose sum comes nearest to ``target``; a few rows, perhaps dependent."""
    size = jnp.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / jnp.where(size > 0, size, 1)
    gram = rows @ rows.T + 10 * jnp.finfo(rows.dtype).eps * jnp.eye(len(rows), dtype=rows.dtype)
    return jnp.linalg.solve(gram, rows @ target) / jnp.where(size > 0, size, 1)[:, 0]
