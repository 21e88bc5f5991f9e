"""Curves between two points, given by control points: w(t) = Σ_i c_i(t) P_i for t from 0 to 1. No JAX."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

KINDS = ("line", "bezier", "chain", "dropout")
"""A line; a Bézier curve and a chain of two lines with one point between the ends; a polygon of many corners."""
_FINE = 2000


def coefficients(kind: str, count: int, t: Float[np.ndarray, " points"]) -> Float[np.ndarray, "points count"]:
    """c_i(t): Bernstein's polynomials of a Bézier curve, hat functions of all others, whose corners are evenly spaced.

    Parameters
    ----------
    kind
        Of :data:`KINDS`.
    count
        Number of control points.
    t
        Where.

    Examples
    --------
    >>> coefficients("bezier", 3, np.array([0.5])), coefficients("chain", 3, np.array([0.25]))
    (array([[0.25, 0.5 , 0.25]]), array([[0.5, 0.5, 0. ]]))
    """
    places, t = np.arange(count), np.asarray(t, float)[:, None]
    if kind == "bezier":
        binomials = np.array([math.comb(count - 1, place) for place in places])
        return binomials * t**places * (1 - t) ** (count - 1 - places)
    return np.maximum(0, 1 - np.abs(t * (count - 1) - places))


def at(kind: str, points: Float[np.ndarray, "count params"], t: float) -> Float[np.ndarray, " params"]:
    """The weights at one t."""
    c = coefficients(kind, len(points), np.array([t]))[0]
    return np.einsum("c,cn->n", c.astype(points.dtype), points)


def parameters(kind: str, count: int, points: int) -> Float[np.ndarray, " points"]:
    """Evenly spaced t from 0 to 1, at least ``points`` of them and all corners among them."""
    pieces = 1 if kind == "bezier" else count - 1
    return np.linspace(0, 1, pieces * -(-(points - 1) // pieces) + 1)


def lengths(
    kind: str, points: Float[np.ndarray, "count params"], t: Float[np.ndarray, " points"]
) -> Float[np.ndarray, " points"]:
    """Length of the curve from its beginning to each t, by chords of 1/2000 of it."""
    fine = np.union1d(np.linspace(0, 1, _FINE + 1), t)
    steps = np.diff(coefficients(kind, len(points), fine), axis=0)
    # ‖Σ_i Δc_i P_i‖ from the scalar products of the P_i, taken from the first of them: Σ_i Δc_i = 0.
    centred = points.astype(float) - points[0]
    gram = centred @ centred.T
    chords = np.sqrt(np.maximum(np.einsum("si,ij,sj->s", steps, gram, steps), 0))
    return np.interp(t, fine, np.concatenate([[0.0], np.cumsum(chords)]))
