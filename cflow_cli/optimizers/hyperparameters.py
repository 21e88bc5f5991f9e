"""The numbers inside an optax object as arguments of a compiled program.

optax closes over its hyperparameters, so that a program compiled for one learning rate is of no use for the next. Here
the update is traced and run again with its floating constants taken from an array: programs, and JAX's persistent cache
of them, then serve every learning rate, decay and epsilon. Two optimizers whose updates have one :func:`form` are one
to a program, however often optax has made them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import Array, Float

_CALLS = ("jit", "pjit")


def constants(function: Callable[..., Any], *arguments: Any) -> np.ndarray:
    """The floating constants of ``function(*arguments)``, in the order in which its trace meets them.

    Parameters
    ----------
    function
        Of pytrees of arrays, such as an optax update.
    *arguments
        Arrays, or their shapes and dtypes.

    Returns
    -------
    numpy.ndarray
        float64, shape (constants,). Empty where the trace has rules of differentiation of its own, which running it
        again would lose.
    """
    jaxpr = _trace(function, arguments)[0].jaxpr
    return np.asarray([float(x.val) for x in _literals(jaxpr)] if _is_plain(jaxpr) else [], np.float64)


def with_constants(function: Callable[..., Any], values: Float[Array, " constants"], *arguments: Any) -> Any:
    """``function(*arguments)`` with ``values`` in the places of its :func:`constants`.

    Where there are none, or the trace for these arguments has another number of them, the function keeps its own.
    """
    if not values.shape[0]:
        return function(*arguments)
    closed, structure = _trace(function, arguments)
    if sum(1 for _ in _literals(closed.jaxpr)) != values.shape[0]:
        return function(*arguments)
    given = iter(values)
    flat = _run(closed.jaxpr, closed.consts, jax.tree.leaves(arguments), given)
    return jax.tree.unflatten(structure, flat)


def form(function: Callable[..., Any], *arguments: Any) -> Hashable | None:
    """What tells the trace of ``function(*arguments)`` from that of another, its :func:`constants` aside.

    Parameters
    ----------
    function, *arguments
        As for :func:`constants`.

    Returns
    -------
    Hashable or None
        None where a trace does not tell all: rules of differentiation of its own, and arrays inside of inner loops.
    """
    closed, structure = _trace(function, arguments)
    if not _is_plain(closed.jaxpr) or _has_hidden_arrays(closed.jaxpr):
        return None
    arrays = tuple((np.asarray(c).tobytes(), str(jnp.asarray(c).aval)) for c in closed.consts)
    return structure, arrays, _text(closed.jaxpr)


def standing_for(transformation: optax.GradientTransformation, w: Any) -> optax.GradientTransformation:
    """The first transformation of this form that this process has met, which a program may have been made for.

    With its constants taken from an array it is the one that was given, for weights of the size and dtype of ``w``.
    """
    state = transformation.init(w)
    forms = form(transformation.init, w), form(transformation.update, w, state, w)
    if None in forms or not constants(transformation.update, w, state, w).size:
        return transformation
    begins = constants(transformation.init, w).tobytes()  # these are no arguments of a program
    return _first(_Formed(transformation, (*forms, begins, w.shape, str(w.dtype))))


class _Formed:
    """A transformation that equals all others of its form."""

    def __init__(self, transformation: optax.GradientTransformation, form: Hashable) -> None:
        self.transformation, self._form = transformation, form

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Formed) and self._form == other._form

    def __hash__(self) -> int:
        return hash(self._form)


@lru_cache(maxsize=64)
def _first(formed: _Formed) -> optax.GradientTransformation:
    return formed.transformation


def _has_hidden_arrays(jaxpr: Jaxpr) -> bool:
    return any(
        (isinstance(inner, ClosedJaxpr) and bool(inner.consts)) or _has_hidden_arrays(_open(inner))
        for equation in jaxpr.eqns
        for inner in _inner(equation.params)
    )


def _open(inner: ClosedJaxpr | Jaxpr) -> Jaxpr:
    return inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner


def _inner(params: Mapping[str, Any]) -> Iterator[ClosedJaxpr | Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr | Jaxpr):
                yield item


def _text(jaxpr: Jaxpr) -> tuple[Hashable, ...]:
    """A trace with its variables numbered, and a mark in the place of each constant."""
    numbers: dict[Any, int] = {}

    def name(x: Any) -> Hashable:
        if isinstance(x, Literal):
            return ("constant" if _is_constant(x) else repr(x.val)), str(x.aval)
        return numbers.setdefault(x, len(numbers)), str(x.aval)

    heads = tuple(name(x) for x in (*jaxpr.constvars, *jaxpr.invars))
    lines = []
    for equation in jaxpr.eqns:
        if equation.primitive.name in _CALLS:
            how: Hashable = _text(equation.params["jaxpr"].jaxpr)
        else:
            how = str(sorted(equation.params.items()))
        ins, outs = (tuple(name(x) for x in xs) for xs in (equation.invars, equation.outvars))
        lines.append((equation.primitive.name, how, ins, outs))
    return heads, tuple(lines), tuple(name(x) for x in jaxpr.outvars)


def _trace(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[ClosedJaxpr, Any]:
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    return closed, jax.tree.structure(shapes)


def _is_plain(jaxpr: Jaxpr) -> bool:
    return all(
        _is_plain(equation.params["jaxpr"].jaxpr)
        if equation.primitive.name in _CALLS
        else not equation.primitive.name.startswith("custom_")
        for equation in jaxpr.eqns
    )


def _literals(jaxpr: Jaxpr) -> Iterator[Literal]:
    for equation in jaxpr.eqns:
        yield from (x for x in equation.invars if _is_constant(x))
        if equation.primitive.name in _CALLS:
            yield from _literals(equation.params["jaxpr"].jaxpr)
    yield from (x for x in jaxpr.outvars if _is_constant(x))


def _is_constant(x: Any) -> bool:
    return isinstance(x, Literal) and jnp.issubdtype(_dtype(x), jnp.floating)


def _dtype(x: Literal) -> Any:
    return getattr(x.aval, "dtype", None)


def _run(jaxpr: Jaxpr, consts: Any, arguments: Any, given: Iterator[Any]) -> list[Any]:
    """Evaluate a trace, the next of ``given`` in the place of each floating constant; calls are entered."""
    known: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

    def read(x: Any) -> Any:
        if not isinstance(x, Literal):
            return known[x]
        return next(given).astype(_dtype(x)) if _is_constant(x) else x.val

    for equation in jaxpr.eqns:
        inputs = [read(x) for x in equation.invars]
        if equation.primitive.name in _CALLS:
            inner = equation.params["jaxpr"]
            outputs = _run(inner.jaxpr, inner.consts, inputs, given)
        else:
            found = equation.primitive.bind(*inputs, **equation.params)
            outputs = found if equation.primitive.multiple_results else [found]
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(x) for x in jaxpr.outvars]
