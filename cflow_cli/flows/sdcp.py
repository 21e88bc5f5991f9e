"""Semidefinite complementarity problems: the covariance of the oscillation from its three conditions.

Find symmetric X with   0 ⪯ X  ⟂  S = α + β[X] ⪰ 0   for a small matrix α and a monotone linear operator β,
in the notation of Cohen et al., arXiv:2410.24206.

Solved by a semismooth Newton method on Z = X − S: with Π the projection on the positive semidefinite cone, X = Π(Z)
and S = Π(−Z) satisfy cone membership and complementarity for every Z, and the one remaining equation
Π(Z) − Z − α − β[Π(Z)] = 0 is solved in a few iterations, one if all candidates oscillate. Should Newton's method
stall, Douglas–Rachford splitting, which converges for every monotone β, brings it to a new start.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

Sym = Float[Array, "k k"]
Packed = Float[Array, " pairs"]
Operator = Float[Array, "pairs pairs"]

# Newton's method takes a few steps where it converges; after so many it has stalled.
_NEWTON_STEPS = 30
# Splitting converges linearly: so many steps, each a small eigendecomposition, bring Newton's method into its basin.
_SPLITTING_STEPS = 500


class Sdcp(NamedTuple):
    """Solution of an SDCP.

    Parameters
    ----------
    x
        X, shape (k, k).
    residual
        Largest violation of the three conditions of the scaled problem: −λ_min(X), −λ_min(S), |⟨X, S⟩|.
    converged
        Whether it is below the tolerance.
    """

    x: Sym
    residual: Float[Array, ""]
    converged: Bool[Array, ""]


class Point(NamedTuple):
    """A point Z of the iteration: its error and the norm of that, its spectrum, and X = Π(Z), packed."""

    z: Packed
    error: Packed
    norm: Float[Array, ""]
    values: Float[Array, " k"]
    basis: Sym
    packed: Packed


def pairs(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (i, j), i ≤ j, of the upper triangle column by column, so that smaller k come first."""
    j, i = np.tril_indices(k)
    return i, j


def sizes(k: int) -> np.ndarray:
    """What entries are multiplied by where packed: √2 off the diagonal, where they count twice."""
    i, j = pairs(k)
    return np.where(i == j, 1.0, np.sqrt(2.0))


def pack(x: Sym) -> Packed:
    """Symmetric matrix as a vector of length k(k+1)/2 with the same inner product (off-diagonals times √2)."""
    i, j = pairs(x.shape[0])
    return (x[i, j] + x[j, i]) / 2 * sizes(x.shape[0]).astype(x.dtype)


def unpack(p: Packed, k: int) -> Sym:
    """Inverse of :func:`pack`."""
    i, j = pairs(k)
    half = p * np.where(i == j, 1.0, np.sqrt(0.5)).astype(p.dtype)
    x = jnp.zeros((k, k), p.dtype).at[i, j].set(half)
    return x.at[j, i].set(half)


def tolerance(dtype: jnp.dtype) -> float:
    """Wanted residual of the scaled problem: 1e-8 in float64, 1e-3 in float32."""
    return 1e-8 if jnp.dtype(dtype) == jnp.float64 else 1e-3


def _project(z: Sym) -> tuple[Sym, Float[Array, " k"], Sym]:
    values, basis = jnp.linalg.eigh((z + z.T) / 2)
    return (basis * jnp.maximum(values, 0)) @ basis.T, values, basis


def _projection_derivative(values: Float[Array, " k"], basis: Sym) -> Operator:
    """Derivative of the projection in packed coordinates: first divided differences of max(·, 0) (Löwner)."""
    k = values.shape[0]
    up = jnp.maximum(values, 0)
    gap = values[:, None] - values[None, :]
    tiny = jnp.finfo(values.dtype).eps * (jnp.max(jnp.abs(values)) + 1)
    step = (values > 0).astype(values.dtype)
    same = jnp.abs(gap) <= tiny
    omega = jnp.where(same, (step[:, None] + step[None, :]) / 2, (up[:, None] - up) / jnp.where(same, 1, gap))

    def apply(p: Packed) -> Packed:
        return pack(basis @ (omega * (basis.T @ unpack(p, k) @ basis)) @ basis.T)

    return jax.vmap(apply, out_axes=1)(jnp.eye(k * (k + 1) // 2, dtype=values.dtype))


def make_monotone(operator: Operator, floor: float = 1e-6) -> Operator:
    """The operator with the eigenvalues of its symmetric part raised to at least ``floor`` of the largest."""
    symmetric = (operator + operator.T) / 2
    values, basis = jnp.linalg.eigh(symmetric)
    low = floor * jnp.maximum(values[-1], jnp.finfo(operator.dtype).tiny)
    lift = (basis * jnp.maximum(low - values, 0)) @ basis.T
    return operator + lift


def solve(alpha: Sym, beta: Operator, guess: Sym) -> Sdcp:
    """Solve 0 ⪯ X ⟂ α + β[X] ⪰ 0 for monotone β.

    Parameters
    ----------
    alpha
        α, shape (k, k).
    beta
        β in the coordinates of :func:`pack`; shape (k(k+1)/2,) twice.
    guess
        Starting X, for instance that of the step before.

    Notes
    -----
    Directions are scaled by T with X = T X̂ T such that β̂ has unit diagonal on the k pairs (i, i), and the whole by
    max|α̂_ii|, so that the tolerance means the same over the ten decades the raw entries span.
    """
    k, dtype = alpha.shape[0], alpha.dtype
    i, j = pairs(k)
    tiny = jnp.finfo(dtype).tiny
    diagonal, drive = jnp.diag(beta)[i == j], jnp.maximum(jnp.abs(jnp.diag(alpha)), tiny)
    moves = diagonal > 0
    t = jnp.where(moves, diagonal, 1) ** -0.25
    size = jnp.max(jnp.where(moves, drive * t**2, 0))
    size = jnp.where(size > 0, size, 1)
    # A direction that X does not move (β is zero there) only has to stay in scale.
    t = jnp.where(moves, t, jnp.sqrt(size / drive))
    alpha_hat = alpha * t[:, None] * t[None, :]
    pair_scale = t[i] * t[j]
    b = make_monotone(beta * pair_scale[:, None] * pair_scale[None, :])
    target = pack(alpha_hat / size)
    tol = tolerance(dtype)

    def error(z: Packed) -> Point:
        x, values, basis = _project(unpack(z, k))
        p = pack(x)
        e = p - z - target - b @ p
        return Point(z, e, jnp.max(jnp.abs(e)), values, basis, p)

    def newton(start: Point) -> Point:
        def body(carry: tuple[Point, Array]) -> tuple[Point, Array]:
            at, n = carry
            slope = _projection_derivative(at.values, at.basis)
            dz = -jnp.linalg.solve(slope - jnp.eye(len(at.z), dtype=dtype) - b @ slope, at.error)
            trial = jax.vmap(error)(at.z + jnp.asarray([1.0, 0.5, 0.25, 0.1, 0.02], dtype)[:, None] * dz)
            best = jnp.argmin(jnp.where(jnp.isfinite(trial.norm), trial.norm, jnp.inf))
            return jax.tree.map(lambda a: a[best], trial), n + 1

        def unsolved(carry: tuple[Point, Array]) -> Array:
            return ~(carry[0].norm <= tol / 10) & (carry[1] < _NEWTON_STEPS)

        return jax.lax.while_loop(unsolved, body, (start, jnp.zeros((), jnp.int32)))[0]

    def split(z: Packed) -> Packed:
        resolvent = jnp.linalg.inv(jnp.eye(len(z), dtype=dtype) + b)

        def body(_: int, z: Packed) -> Packed:
            x = pack(_project(unpack(z, k))[0])
            return z + resolvent @ (2 * x - z - target) - x

        return jax.lax.fori_loop(0, _SPLITTING_STEPS, body, jnp.where(jnp.all(jnp.isfinite(z)), z, 0))

    def attempt(carry: tuple[Packed, Packed, Array, Array]) -> tuple[Packed, Packed, Array, Array]:
        z, _, _, n = carry
        at = newton(error(jax.lax.cond(n > 0, split, lambda z: z, z)))
        return at.z, at.packed, at.norm, n + 1

    # A loop of at most two, so that Newton's method is compiled once.
    x0 = pack(guess) / (pair_scale * size)
    start = (x0 - (target + b @ x0), x0, jnp.asarray(jnp.inf, dtype), jnp.zeros((), jnp.int32))
    _, p, *_ = jax.lax.while_loop(lambda c: ~(c[2] <= tol) & (c[3] < 2), attempt, start)

    slack = unpack(target + b @ p, k)
    residual = jnp.maximum(jnp.maximum(-jnp.linalg.eigvalsh(slack)[0], jnp.abs(p @ pack(slack))), 0)
    return Sdcp(unpack(p, k) * size * t[:, None] * t[None, :], residual, residual <= tol)
