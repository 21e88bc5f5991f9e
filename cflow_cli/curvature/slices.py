"""Sums over all weights in slices so short that a CPU's cache holds what is worked on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array

from cflow_cli.computing import platform

# Numbers in a slice of all the rows worked on: 1 MiB in float32 and 2 MiB in float64, a core's own (second) cache.
_NUMBERS_IN_CACHE = 2**18
# In shorter slices the work of the loop itself would count, and vector units would idle.
_SHORTEST_SLICE = 256


class Cut(Protocol):
    """Cuts a slice of the weights out of an array."""

    def __call__(self, array: Array, rows: int | None = None) -> Array:
        """Those columns of its first ``rows`` rows, or of all; an array that does not run over the weights as it is."""


def uncut(array: Array, rows: int | None = None) -> Array:
    """The :class:`Cut` of all weights at once."""
    return array if rows is None else array[:rows]


def in_slices(part: Callable[[Cut], tuple[Any, Any]], length: int, rows: int) -> tuple[Any, Any]:
    """Sums over slices of the weights, and arrays put together from them, in one pass over memory.

    Parameters
    ----------
    part
        Takes a :class:`Cut` and returns two pytrees: what the slice adds to the sums, and its columns of arrays over
        all weights; scalars among those must be the same for each slice.
    length
        Number of weights.
    rows
        Rows that a slice has in memory at once; a slice is so short that they stay in a CPU's cache.
    """
    size = min(max(_NUMBERS_IN_CACHE // rows, _SHORTEST_SLICE), length) if platform() == "cpu" else length
    if size == length:
        return part(uncut)
    whole, rest = divmod(length, size)

    def cut(start: int | Array, size: int) -> tuple[Any, Any]:
        def of(array: Array, rows: int | None = None) -> Array:
            if array.shape[-1:] != (length,):
                return array
            # Rows and columns in one go: XLA would copy the rows first.
            taken = array.shape[:-1] if rows is None else (rows,)
            return jax.lax.dynamic_slice(array, (*[0] * len(taken), start), (*taken, size))

        return part(of)

    def put(columns: Any, start: int | Array, of: Any) -> Any:
        def place(whole: Array, some: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(whole, some, start, -1) if some.ndim else some

        return jax.tree.map(place, columns, of)

    def add(s: Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        sums, columns = cut(s * size, size)
        return jax.tree.map(jnp.add, carry[0], sums), put(carry[1], s * size, columns)

    sums, columns = jax.eval_shape(lambda: cut(0, size))
    sums = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), sums)
    columns = jax.tree.map(lambda a: jnp.zeros((*a.shape[:-1], length)[: a.ndim], a.dtype), columns)
    sums, columns = jax.lax.fori_loop(0, whole, add, (sums, columns))
    if rest:
        more, last = cut(whole * size, rest)
        sums, columns = jax.tree.map(jnp.add, sums, more), put(columns, whole * size, last)
    return sums, columns
