"""A path through networks of half their units, with a bound on the loss that needs no training of it.

Kuditipudi et al., arXiv:1906.06247: segments of two kinds join any two networks. Where only the output layer changes,
the loss is convex along the segment; where only units change that nothing reads, it is constant. So the loss is nowhere
above the largest one at the corners, which are networks that keep half of their units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.optimize import minimize

from cflow_cli.errors import UserError
from cflow_cli.models.units import Units
from cflow_cli.paths.fit import losses
from cflow_cli.problem import Problem

Halves = list[Int[np.ndarray, " half"]]
# Of the loss per squared distance from the scaled weights: enough that what the data leave free stays where it was.
_RIDGE = 1e-3
# Of L-BFGS: for the path, and for comparing halves.
_ITERATIONS, _FEW = 300, 50


class Corners(NamedTuple):
    """The path as a polygon.

    Parameters
    ----------
    points
        Its corners, shape (segments + 1, n); a network of L hidden layers has 4L + 1 segments.
    convex
        For each segment, whether only the output layer changes on it; else the loss is constant.
    """

    points: Float[np.ndarray, "corners params"]
    convex: tuple[bool, ...]


@dataclass(frozen=True)
class _Layout:
    """Where the weights of a network are, by what they read.

    Parameters
    ----------
    reads
        Per hidden layer, places of the weights by which a unit reads one of the layer below, shape (units, units
        below, groups); None for the first.
    rest
        Per hidden layer, places of its other incoming weights, shape (units, others).
    top
        Places of the weights that read the last hidden layer, shape (units, groups · outputs).
    bias
        Places of all that belongs to no hidden unit's incoming weights and reads none: the biases of the outputs.
    """

    reads: tuple[np.ndarray | None, ...]
    rest: tuple[np.ndarray, ...]
    top: np.ndarray
    bias: np.ndarray

    @classmethod
    def of(cls, units: Sequence[Units], size: int) -> _Layout:
        reads: list[np.ndarray | None] = [None]
        rest = [units[0].incoming]
        for below, layer in pairwise(units):
            reads.append(np.moveaxis(below.outgoing, 2, 0))
            others = ~np.isin(layer.incoming[0], below.outgoing)
            rest.append(layer.incoming[:, others])
        top = units[-1].outgoing.reshape(len(units[-1].outgoing), -1)
        known = np.concatenate([top.ravel(), *(layer.incoming.ravel() for layer in units)])
        return cls(tuple(reads), tuple(rest), top, np.setdiff1d(np.arange(size), known))


def random_halves(units: Sequence[Units], seed: int) -> Halves:
    """Half of the units of each layer, at random."""
    rng = np.random.default_rng(seed)
    return [np.sort(rng.permutation(n)[: n // 2]) for n in (len(layer.incoming) for layer in units)]


def connected(
    problem: Problem,
    units: Sequence[Units],
    a: Float[np.ndarray, " params"],
    b: Float[np.ndarray, " params"],
    *,
    refit: bool = True,
    trials: int = 20,
    seed: int = 0,
) -> Corners:
    """The path by the best of some random choices of halves.

    Parameters
    ----------
    problem
        The landscape.
    units
        Places of the units' weights.
    a, b
        Its ends. Of a one half of each hidden layer is kept, of b the other.
    refit
        Whether each half network gets the output layer of least loss, near its own one times two; else just that.
    trials, seed
        How many random choices of halves are compared by their bounds, and of which. Those that are best with the
        networks' own output layers need not be with others: each is fitted, in a few iterations.

    Raises
    ------
    UserError
        If a hidden layer has a single unit, or there is none.
    """
    if not units or min(len(layer.incoming) for layer in units) < 2:
        raise UserError(
            "a dropout path keeps half of the units of each hidden layer: it needs two or more in each"
        )
    chosen = [random_halves(units, seed + trial) for trial in range(trials)]
    fitted_to = problem if refit else None
    found = (corners(units, a, b, halves, fitted_to, _FEW) for halves in chosen)
    best = chosen[int(np.argmin([bound(problem, path) for path in found]))]
    return corners(units, a, b, best, fitted_to)


def bound(problem: Problem, path: Corners) -> float:
    """The largest loss at a corner: no point of the path has more."""
    return float(losses(problem, path.points).max())


def corners(
    units: Sequence[Units],
    a: Float[np.ndarray, " params"],
    b: Float[np.ndarray, " params"],
    halves: Halves,
    refit: Problem | None = None,
    iterations: int = _ITERATIONS,
) -> Corners:
    """The path by given halves; for two hidden layers, of nine segments.

    Parameters
    ----------
    units
        Places of the units' weights.
    a, b
        Its ends.
    halves
        Units of a to keep, for each hidden layer at most half of them; of b the others are kept.
    refit
        The problem whose loss the output layers are fitted to; None to take those of the ends, times two.
    iterations
        Of each fit, at most.
    """
    layout = _Layout.of(units, len(a))
    others = [
        np.setdiff1d(np.arange(len(layer.incoming)), kept)[: len(kept)] for layer, kept in zip(units, halves)
    ]

    def fitted(w: np.ndarray, slots: np.ndarray) -> np.ndarray:
        return w if refit is None else _refitted(refit, layout, w, slots, iterations)

    there, slots = _thinned(layout, a, halves, others, fitted)
    back, free = _thinned(layout, b, others, halves, fitted)
    # Beside the half of a, the half of b; then the outputs change from one to the other.
    both = _installed(layout, there[-1], b, others, free, 0)
    swapped = _with_top(layout, both, *_top_of(layout, back[-1], free[-1]), free[-1])
    assert all(not np.intersect1d(s, f).size for s, f in zip(slots, free))
    half = [True] + [False, True] * (len(units) - 1)
    return Corners(np.stack([*there, both, swapped, *back[::-1]]), (*half, False, True, False, *half[::-1]))


def _thinned(
    layout: _Layout,
    w: np.ndarray,
    kept: Halves,
    spare: Halves,
    fitted: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> tuple[list[np.ndarray], Halves]:
    """Corners from a network to one that only half of its units take part in, and the places of these units.

    The units of one more layer, from the last to the first, are left out at a time: those above it that take part are
    copied, reading only what is kept, to the places that are free, and the outputs move over to the copies.
    """
    last = len(kept) - 1
    # Own places where the number of moves to come is even.
    slots = [*kept]
    path = [w]

    def end(base: np.ndarray) -> np.ndarray:
        own = 2 * w[layout.top[kept[-1]]]
        return fitted(_with_top(layout, base, own, w[layout.bias], slots[-1]), slots[-1])

    path.append(end(w))
    for low in range(last - 1, -1, -1):
        for above in range(low + 1, last + 1):
            slots[above] = spare[above] if slots[above] is kept[above] else kept[above]
        copied = _installed(layout, path[-1], w, kept, slots, low)
        path += [copied, end(copied)]
    return path, slots


def _installed(
    layout: _Layout, base: np.ndarray, w: np.ndarray, kept: Halves, slots: Halves, low: int
) -> np.ndarray:
    """``base`` with the kept units of w at some places, each reading only kept ones; below layer ``low`` all are."""
    base = base.copy()
    for number in range(low, len(kept)):
        own, place, reads = kept[number], slots[number], layout.reads[number]
        base[layout.rest[number][place]] = w[layout.rest[number][own]]
        if reads is None:
            continue
        if number == low:
            base[reads[place]] = w[reads[own]]
        else:
            base[reads[place]] = 0
            base[reads[np.ix_(place, slots[number - 1])]] = 2 * w[reads[np.ix_(own, kept[number - 1])]]
    return base


def _top_of(layout: _Layout, w: np.ndarray, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return w[layout.top[slots]], w[layout.bias]


def _with_top(
    layout: _Layout, base: np.ndarray, top: np.ndarray, bias: np.ndarray, slots: np.ndarray
) -> np.ndarray:
    """``base`` with an output layer that reads only the units at some places."""
    base = base.copy()
    base[layout.top] = 0
    base[layout.top[slots]] = top
    base[layout.bias] = bias
    return base


@eqx.filter_jit
def _head_loss(problem: Problem, w: Array, places: Array, head: Array, anchor: Array) -> tuple[Array, Array]:
    def loss(head: Array) -> Array:
        return problem.loss(w.at[places].set(head)) + _RIDGE / 2 * jnp.sum((head - anchor) ** 2)

    return jax.value_and_grad(loss)(head)


def _refitted(
    problem: Problem, layout: _Layout, w: np.ndarray, slots: np.ndarray, iterations: int
) -> np.ndarray:
    """``w`` with the output layer, on the units at some places, of least loss and ridge: a convex problem."""
    places = np.concatenate([layout.top[slots].ravel(), layout.bias])
    anchor = w[places]
    fixed = jnp.asarray(w), jnp.asarray(places), jnp.asarray(anchor)

    def value(head: np.ndarray) -> tuple[float, Any]:
        found, gradient = _head_loss(problem, *fixed[:2], jnp.asarray(head, w.dtype), fixed[2])
        return float(found), np.asarray(gradient, float)

    found = minimize(
        value, anchor.astype(float), jac=True, method="L-BFGS-B", options={"maxiter": iterations}
    )
    w = w.copy()
    w[places] = found.x
    return w
