"""The learning rate of a case of the accuracy study, by a rule that knows nothing of any flow.

On seed 0 and without kicks, the largest rate of a grid of 1, 2 and 5 times powers of ten at which

- the optimizer stays: its loss is finite, and from the flows' branch point on never above the first;
- two eigenvalues of DH or more become critical, and no more than four, as many as the study begins with: so many are
  above 1.95 at two looks in a row, with one at every twentieth step, at the midpoint (w₋ + 2w + w₊)/4.

DH is not symmetric, but similar to a matrix that is; Arnoldi's method has its largest eigenvalues from products with H
and D alone, and D is proportional to the rate, so that one compiled program serves the grid.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import LinearOperator, eigs

from benchmarks.accuracy_cases import CASES, Case, problem
from cflow_cli import Problem
from cflow_cli.optimizers import operator_map_of
from cflow_cli.report.tables import markdown

GRID = tuple(digit * 10.0**power for power in range(-4, 2) for digit in (1, 2, 5))
STEPS = 400
EVERY = 20
FEWEST, MOST = 2, 4
CRITICAL = 1.95


def paths(case: Case, own: Problem, steps: int) -> Callable[[float], Any]:
    """Rate -> losses, weights (flat), gradients and states of a plain optax loop, one program for all rates."""
    unravel = own.unravel
    assert unravel is not None

    @jax.jit
    def run(rate: jax.Array) -> Any:
        transformation = case.build(rate)

        def step(carry: tuple[Any, Any], _: None) -> tuple[Any, Any]:
            w, state = carry
            loss, g = jax.value_and_grad(own.loss)(w)
            delta, after = transformation.update(unravel(g), state, unravel(w))
            return (w + ravel_pytree(delta)[0], after), (loss, w, g, state)

        return jax.lax.scan(step, (own.w0, transformation.init(unravel(own.w0))), length=steps)[1]

    return run


def spectra(case: Case, own: Problem) -> Callable[..., Iterator[np.ndarray]]:
    """Of a rate and its path the five largest effective eigenvalues at the midpoint of every twentieth step."""
    response = operator_map_of(case.build(1.0), own.w0, own.unravel)
    held = jax.jit(response.held)
    product = jax.jit(
        lambda v, w, even: response.response(even, jax.jvp(own.gradient, (w,), (v,))[1][None])[0][0]
    )

    def looks(rate: float, path: Any) -> Iterator[np.ndarray]:
        _, weights, gradients, states = path
        n = own.w0.size
        start = np.random.default_rng(0).standard_normal(n)
        for t in range(max(case.warm_start, 1), len(weights) - 1, EVERY):
            middle = (weights[t - 1] + 2 * weights[t] + weights[t + 1]) / 4
            even = held(jax.tree.map(lambda x, t=t: x[t], states), gradients[t], weights[t])
            matrix = LinearOperator(
                (n, n), partial(_applied, product, rate, middle, even), dtype=np.dtype(own.w0.dtype)
            )
            found = eigs(matrix, k=MOST + 1, which="LR", v0=start, tol=1e-2, return_eigenvectors=False)
            yield np.sort(found.real)[::-1]

    return looks


def _applied(product: Callable[..., Any], rate: float, w: Any, even: Any, v: np.ndarray) -> np.ndarray:
    return rate * np.asarray(product(jnp.asarray(v.ravel(), w.dtype), w, even))


def critical(values: Iterator[np.ndarray]) -> int:
    """Most eigenvalues above 1.95 at two looks in a row; five stand for more, and end the search."""
    most, before = 0, 0
    for look in values:
        count = int((look > CRITICAL).sum())
        most, before = max(most, min(before, count)), count
        if most > MOST:
            break
    return most


def chosen(name: str, where: str, root: str | None, steps: int = STEPS) -> list[tuple[float, float, int]]:
    """Rates of the grid at which the optimizer stays, from the largest down to the one that the rule takes.

    With each its last loss over the first, and how many eigenvalues become critical. Below a rate where fewer than two
    do nothing is tried.
    """
    case, own = CASES[name], problem(where, 0, root)
    run, looks = paths(case, own, steps), spectra(case, own)
    tried = []
    for rate in sorted(GRID, reverse=True):
        path = run(jnp.asarray(rate))
        losses = np.asarray(path[0])
        if not (np.isfinite(losses).all() and (losses[case.warm_start :] <= losses[0]).all()):
            continue
        tried.append((rate, losses[-1] / losses[0], critical(looks(rate, path))))
        if tried[-1][2] <= MOST:
            break
    return tried


def table(names: Sequence[str], wheres: Sequence[str], root: str | None) -> str:
    """Markdown: of each case the largest rate of the grid that stays, and the one that the rule takes."""
    lines = []
    for where in wheres:
        for name in names:
            tried = chosen(name, where, root)
            cells = ["–"] * 4
            if tried:
                cells[0] = f"{tried[0][0]:g}"
                rate, ending, count = tried[-1]
                if FEWEST <= count <= MOST:
                    cells[1:] = [f"{rate:g}", str(count), f"{ending:.2g}"]
            lines.append([where, name, *cells])
            print(" ".join(lines[-1]), tried, file=sys.stderr, flush=True)
    headings = ["problem", "optimizer", "largest that stays", "rate", "critical", "last loss / first"]
    return markdown(headings, lines)
