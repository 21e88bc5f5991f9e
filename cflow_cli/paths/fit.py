"""Losses on a curve, and the curve of least mean loss with given ends, each in one compiled program."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from cflow_cli.paths.curves import coefficients
from cflow_cli.problem import Problem, each_row

SAMPLES = 4
"""Points of the curve at which each step takes the gradient."""


class Values(NamedTuple):
    """What is measured at points of a curve, each of shape (points,); NaN where the problem does not have it."""

    loss: Any
    accuracy: Any
    test_loss: Any
    test_accuracy: Any
    grad_norm_sq: Any


@eqx.filter_jit
def _values(problem: Problem, points: Array, c: Array) -> Values:
    def at(c: Array) -> Values:
        w = c @ points
        return Values(problem.loss(w), *problem.evaluate(w), jnp.sum(problem.gradient(w) ** 2))

    return jax.lax.map(at, c)


@eqx.filter_jit
def _losses(problem: Problem, points: Array, c: Array) -> Array:
    return jax.lax.map(lambda c: problem.loss(c @ points), c)


def values(problem: Problem, points: Any, c: Float[np.ndarray, "rows count"]) -> Values:
    """Loss, accuracies and squared norm of the gradient at Σ_i c_i P_i for each row of c, as numpy has them.

    Parameters
    ----------
    problem
        The landscape.
    points
        P, shape (count, n).
    c
        A row for each point, shape (rows, count).
    """
    dtype = problem.w0.dtype
    found = _values(problem, jnp.asarray(points, dtype), jnp.asarray(c, dtype))
    return Values(*(np.asarray(column, float) for column in found))


def losses(
    problem: Problem, points: Any, c: Float[np.ndarray, "rows count"] | None = None
) -> Float[np.ndarray, " rows"]:
    """L(Σ_i c_i P_i) for each row of c; by default at the points themselves."""
    dtype = problem.w0.dtype
    c = np.eye(len(points)) if c is None else c
    return np.asarray(_losses(problem, jnp.asarray(points, dtype), jnp.asarray(c, dtype)), float)


@eqx.filter_jit
def _fitted(problem: Problem, points: Array, c: Array, rates: Array) -> Array:
    adam = optax.scale_by_adam()

    def step(carry: tuple[Array, Any], now: tuple[Array, Array]) -> tuple[tuple[Array, Any], None]:
        (inner, state), (c, rate) = carry, now
        w = c @ jnp.concatenate([points[:1], inner, points[-1:]])
        # The curve is linear in its control points: ∂/∂P_j of the mean of L(w(t_i)) is the mean of c_j(t_i) ∇L(w(t_i)).
        gradient = c[:, 1:-1].T @ each_row(problem.gradient, w, problem.at_once) / len(w)
        update, state = adam.update(gradient, state)
        return (inner - rate * update, state), None

    inner = points[1:-1]
    (inner, _), _ = jax.lax.scan(step, (inner, adam.init(inner)), (c, rates))
    return jnp.concatenate([points[:1], inner, points[-1:]])


def fitted(
    problem: Problem,
    kind: str,
    points: Float[np.ndarray, "count params"],
    *,
    steps: int = 300,
    lr: float = 0.01,
    seed: int = 0,
) -> Float[np.ndarray, "count params"]:
    """Control points whose curve has the least mean loss, between ends that stay (Garipov et al., arXiv:1802.10026).

    Minimises E_t L(w(t)) over the inner control points, on all examples, by Adam with a rate that falls to 0 as a
    cosine; each step takes 4 values of t, one in each quarter of the curve.

    Parameters
    ----------
    problem
        The landscape.
    kind
        Of the curve, ``bezier`` or ``chain``.
    points
        Where to begin.
    steps, lr
        Of Adam.
    seed
        Of the values of t.
    """
    uniform = np.random.default_rng(seed).random((steps, SAMPLES))
    t = (np.arange(SAMPLES) + uniform) / SAMPLES
    c = coefficients(kind, len(points), t.ravel()).reshape(steps, SAMPLES, len(points))
    rates = lr * (1 + np.cos(np.pi * np.arange(steps) / steps)) / 2
    dtype = problem.w0.dtype
    return np.asarray(_fitted(problem, *(jnp.asarray(a, dtype) for a in (points, c, rates))))
