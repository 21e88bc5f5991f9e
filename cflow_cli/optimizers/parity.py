"""An optimizer's update as a straight line of primitives, each of whose results is odd or even.

With the weights counted among the odd quantities, the update map of almost every optimizer keeps its form under
(g, odd state, w) → −(g, odd state, w): momenta and step flip their sign, and second moments, norms, Gram matrices and
whatever is made of them stay. That holds for every intermediate result of the trace, too: which is which is found by
running it with either sign. So Δ = −D·(odd), with D linear once the even results are held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import Array

from cflow_cli.optimizers.classify import EVEN, ODD

MIXED = "mixed"

# Primitives that only call a trace: it takes their place. A function with its own rule of differentiation keeps that.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
}
_CALLS |= {"custom_vjp_call": "call_jaxpr", "custom_lin": "jaxpr"}
# A loop of so many turns at most is unrolled, so that what is even inside can be held.
_LONGEST_LOOP = 64
# Linear in their odd arguments together, of whatever value those are.
_LINEAR = frozenset(
    {
        *("add", "add_any", "sub", "mul", "neg", "dot_general", "reduce_sum", "cumsum", "copy", "copy_p"),
        *(
            "broadcast_in_dim",
            "reshape",
            "squeeze",
            "expand_dims",
            "transpose",
            "rev",
            "convert_element_type",
        ),
        *("concatenate", "split", "slice", "pad", "gather", "scatter", "scatter-add", "select_n"),
        *("dynamic_slice", "dynamic_update_slice", "reduce_precision"),
    }
)
# Values that are compared at once take at most so many bytes.
_MOST_BYTES = 2**28
# Two results are the same up to this part of the largest entry: far above rounding in float32.
_SAME = 1e-4


class Line(NamedTuple):
    """One primitive: what it computes, its name, and the places of its arguments and results.

    Parameters
    ----------
    call
        Of the arguments: the list of results.
    """

    call: Callable[..., list[Any]]
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Program:
    """A trace without calls.

    Parameters
    ----------
    lines
        In the order of execution; those that no output needs are left out.
    inputs, outputs
        Places of the arguments and results.
    constants
        Places whose value is known.
    avals
        Shape and dtype of every place.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Trace a function of arrays that returns a list of arrays."""
        closed: ClosedJaxpr = jax.make_jaxpr(function)(*arguments)
        self.lines: list[Line] = []
        self.constants: dict[int, Any] = {}
        self.avals: list[Any] = []
        self.inputs = [self._place(v.aval) for v in closed.jaxpr.invars]
        self.outputs = self._inline(closed.jaxpr, closed.consts, self.inputs)
        self._drop_dead_lines()

    def _place(self, aval: Any) -> int:
        self.avals.append(aval)
        return len(self.avals) - 1

    def _constant(self, value: Any, aval: Any) -> int:
        place = self._place(aval)
        self.constants[place] = value
        return place

    def _inline(self, jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[int]) -> list[int]:
        places: dict[Any, int] = dict(zip(jaxpr.invars, inputs, strict=True))
        for variable, value in zip(jaxpr.constvars, consts, strict=True):
            places[variable] = self._constant(value, variable.aval)

        def of(x: Any) -> int:
            return self._constant(x.val, x.aval) if isinstance(x, Literal) else places[x]

        for equation in jaxpr.eqns:
            name, params = equation.primitive.name, equation.params
            arguments = [of(x) for x in equation.invars]
            if name in _CALLS and _CALLS[name] in params:
                inner = params[_CALLS[name]]
                results = self._inline(*_opened(inner), arguments)
            elif _is_short_loop(name, params):
                fixed, carry = params["num_consts"], arguments[params["num_consts"] :]
                for _ in range(params["length"]):
                    carry = self._inline(*_opened(params["jaxpr"]), [*arguments[:fixed], *carry])
                results = carry
            else:
                results = [self._place(v.aval) for v in equation.outvars]
                self.lines.append(
                    Line(_caller(equation.primitive, params), name, tuple(arguments), tuple(results))
                )
            places.update(zip(equation.outvars, results, strict=True))
        return [of(x) for x in jaxpr.outvars]

    def _drop_dead_lines(self) -> None:
        needed, kept = set(self.outputs), []
        for line in reversed(self.lines):
            if needed & set(line.outputs):
                needed.update(line.inputs)
                kept.append(line)
        self.lines = kept[::-1]

    def run(self, known: dict[int, Any], lines: Sequence[Line] | None = None) -> dict[int, Any]:
        """Every value on the way, by place, from those of the arguments; of all lines, or of some."""
        known = self.constants | known
        for line in self.lines if lines is None else lines:
            known.update(zip(line.outputs, line.call(*(known[i] for i in line.inputs)), strict=True))
        return known

    def is_float(self, place: int) -> bool:
        """Whether a place holds floating numbers."""
        return jnp.issubdtype(self.avals[place].dtype, jnp.floating)

    def in_parts(self, most: int) -> list[list[int]]:
        """All places but the constants, in parts whose values take so many bytes at most, or are one."""
        parts: list[list[int]] = []
        left = 0
        for place in dict.fromkeys([*self.inputs, *(o for line in self.lines for o in line.outputs)]):
            size = self.avals[place].size * self.avals[place].dtype.itemsize
            if not parts or size > left:
                parts.append([])
                left = most
            parts[-1].append(place)
            left -= size
        return parts


def _opened(inner: Any) -> tuple[Jaxpr, Sequence[Any]]:
    return (inner.jaxpr, inner.consts) if isinstance(inner, ClosedJaxpr) else (inner, ())


def _is_short_loop(name: str, params: dict[str, Any]) -> bool:
    if name != "scan" or params["length"] > _LONGEST_LOOP:
        return False
    body = params["jaxpr"].jaxpr
    fixed, carried = params["num_consts"], params["num_carry"]
    return len(body.invars) == fixed + carried and len(body.outvars) == carried


def _caller(primitive: Any, params: dict[str, Any]) -> Callable[..., list[Any]]:
    def call(*arguments: Any) -> list[Any]:
        prepared = primitive.get_bind_params(params)
        functions, rest = (
            prepared if isinstance(prepared, tuple) else ((), prepared)
        )  # as JAX has it by version
        found = primitive.bind(*functions, *arguments, **rest)
        return list(found) if primitive.multiple_results else [found]

    return call


def differences(
    program: Program, points: Sequence[tuple[Sequence[Array], Sequence[Array]]], jit: Callable[..., Any]
) -> list[dict[int, np.ndarray]]:
    """How far the values of each place are, at each point, from being the same or each other's negative.

    Shape (3,) each: largest |a − b|, |a + b| and |a|; of integers the first is whether any differ.

    Parameters
    ----------
    program, points
        Where, and the two sets of arguments of each point.
    jit
        Compiles what computes the values. They are compared outside, because sums over hundreds of them take longer to
        compile than all else.
    """
    found: list[dict[int, np.ndarray]] = [{} for _ in points]
    for places in program.in_parts(_MOST_BYTES):

        @jit
        def values(*arguments: Array, places: Sequence[int] = tuple(places)) -> list[Array]:
            known = program.run(dict(zip(program.inputs, arguments, strict=True)))
            return [known[p] for p in places]

        for at, (plus, minus) in zip(found, points, strict=True):
            both = (jax.device_get(values(*given)) for given in (plus, minus))
            for place, a, b in zip(places, *both, strict=True):
                at[place] = _difference(np.asarray(a), np.asarray(b), program.is_float(place))
    return found


def _difference(a: np.ndarray, b: np.ndarray, floating: bool) -> np.ndarray:
    if not floating:
        return np.asarray([np.any(a != b), 1, 1], np.float32)
    with np.errstate(over="ignore"):
        a, b = np.nan_to_num(a), np.nan_to_num(b)
        return np.asarray([np.max(np.abs(x), initial=0) for x in (a - b, a + b, a)]).astype(np.float32)


def parities(differences: Sequence[dict[int, np.ndarray]]) -> dict[int, str]:
    """Parity of every place from :func:`differences` at several points.

    What is zero at one point is told by the others; what is zero at all of them is even.
    """
    out = {}
    for place in differences[0]:
        possible = {EVEN, ODD}
        for found in differences:
            differ, add, size = found[place]
            if size == 0:
                continue
            possible -= {EVEN} if not differ <= _SAME * size else set()
            possible -= {ODD} if not add <= _SAME * size else set()
        out[place] = EVEN if EVEN in possible else ODD if ODD in possible else MIXED
    return out


def is_linear(line: Line, parity: Mapping[int, str]) -> bool:
    """Whether a line is linear in its odd arguments whatever they are, so that its derivative needs none of them."""
    if line.name == "div":
        return parity[line.inputs[1]] == EVEN
    return line.name in _LINEAR


def derivative(
    program: Program, line: Line, known: dict[int, Any], rows: dict[int, Array]
) -> dict[int, Array]:
    """Derivatives of a line's floating results along rows of its odd arguments, its even ones held.

    Parameters
    ----------
    program, line
        Where, and what is differentiated.
    known
        Values of its arguments; zeros where an odd one is missing, which a linear line does not look at.
    rows
        Tangents of odd places, with a leading axis; missing ones are zero.
    """
    moving, at, floating, results = _in_odd_arguments(program, line, known, rows)

    def along(*tangents: Array) -> list[Array]:
        return jax.jvp(results, at, tangents)[1]

    return dict(zip(floating, jax.vmap(along)(*(rows[p] for p in moving)), strict=True))


def _in_odd_arguments(
    program: Program, line: Line, known: dict[int, Any], rows: dict[int, Array]
) -> tuple[list[int], tuple[Array, ...], list[int], Callable[..., list[Array]]]:
    """A line as a function of those arguments that have rows: their places and values, floating results, and it."""
    moving = [p for p in dict.fromkeys(line.inputs) if p in rows]
    at = tuple(_value(program, known, p) for p in moving)
    floating = [o for o in line.outputs if program.is_float(o)]

    def results(*values: Array) -> list[Array]:
        own = dict(zip(moving, values, strict=True))
        found = line.call(*(own[p] if p in own else _value(program, known, p) for p in line.inputs))
        return [x for x, o in zip(found, line.outputs, strict=True) if o in floating]

    return moving, at, floating, results


def _value(program: Program, known: dict[int, Any], place: int) -> Any:
    if place in known:
        return known[place]
    aval = program.avals[place]
    return jnp.zeros(aval.shape, aval.dtype)


def bending(
    program: Program,
    line: Line,
    known: dict[int, Any],
    rows: dict[int, Array],
    weighted: dict[int, Array],
) -> dict[int, Array]:
    """½ Σ_ij X_ij D²e[t_i, t_j] of a line's floating results: what an oscillation adds to their mean.

    Parameters
    ----------
    program, line, known
        Where, what is differentiated, and its arguments.
    rows, weighted
        Tangents t_i of odd places, and y_i = Σ_j X_ij t_j.
    """
    moving, at, floating, results = _in_odd_arguments(program, line, known, rows)

    def second(ts: tuple[Array, ...], ys: tuple[Array, ...]) -> list[Array]:
        def slope(*values: Array) -> list[Array]:
            return jax.jvp(results, values, ts)[1]

        return jax.jvp(slope, at, ys)[1]

    found = jax.vmap(second)(tuple(rows[p] for p in moving), tuple(weighted[p] for p in moving))
    return {o: jnp.sum(x, axis=0) / 2 for o, x in zip(floating, found, strict=True)}
