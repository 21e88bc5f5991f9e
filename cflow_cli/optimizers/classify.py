"""What kind of map an optax optimizer is, found by stepping it with a few random gradients; none is known by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from cflow_cli.errors import UserError

ODD, EVEN, COUNTER = "odd", "even", "counter"

# Two results are the same up to this part of the largest entry: far above rounding in float32, and Yogi starts its
# momentum at 1e-6 instead of 0.
_SAME = 1e-4
# Gradients of these sizes are tried in turn, because clipping by a norm sets in at some size only.
_SCALES = (1e-3, 1.0, 1e3)

Run = Callable[[np.ndarray, np.ndarray], tuple[list[np.ndarray], np.ndarray]]


class Classification(NamedTuple):
    """What stepping an optimizer tells of it.

    Parameters
    ----------
    parity, scheduled, separate
        As in :class:`cflow_cli.optimizers.update_map.UpdateMap`.
    refusal
        None, or the sentence why the optimizer has no flow.
    leaves
        Of its state after a few steps.
    coupled
        Whether it is refused as not elementwise.
    """

    parity: tuple[str, ...]
    scheduled: tuple[bool, ...]
    separate: bool
    refusal: str | None
    leaves: list[np.ndarray]
    coupled: bool


def classify(transformation: optax.GradientTransformation, size: int, dtype: Any) -> Classification:
    """Probe an optimizer with random gradients: parity of its state, smoothness, coupling of coordinates.

    Raises
    ------
    UserError
        If it cannot step a flat vector of weights.
    """
    # Compared on the host: each operation outside of a compiled function would be compiled, for tens of milliseconds.
    gradients = np.random.default_rng(0).standard_normal((4, size)).astype(dtype)
    w = np.zeros(size, dtype)
    run = _stepped(transformation)
    try:
        plus, minus = run(gradients, w), run(-gradients, w)
    except Exception as error:
        raise UserError(
            f"the optimizer cannot step a flat weight vector ({type(error).__name__}: {error}); "
            "pass an optax GradientTransformation"
        ) from error
    parity, refusal = _parities(plus[0], minus[0], size)
    if not _same(plus[1], -minus[1]):
        refusal = "its update does not flip its sign with the gradient (a random or lopsided update)"
    shared = any(p == EVEN and a.shape == () for a, p in zip(plus[0], parity, strict=True))
    uneven = refusal is not None
    if refusal is None and not shared and size > 1 and _mixes_coordinates(run, gradients):
        refusal = "its update mixes coordinates (a norm or a matrix of the gradient), so D is not diagonal"
    if refusal is None:
        refusal = _shape_dependence(run, dtype)
    scheduled = scheduled_leaves(jax.eval_shape(transformation.init, w))
    separate = refusal is None and _is_separate(run, gradients, w, plus[1])
    coupled = refusal is not None and not uneven
    return Classification(parity, scheduled, separate, refusal, plus[0], coupled)


def _stepped(transformation: optax.GradientTransformation) -> Run:
    """(g_1 … g_m, w) ↦ leaves of the state after steps with these gradients, and the last Δ, on the host."""

    @jax.jit
    def steps(gs: Array, w: Array) -> tuple[list[Array], Array]:
        state, delta = transformation.init(w), w
        for g in gs:
            delta, state = transformation.update(g, state, w)
        return jax.tree.leaves(state), delta

    def run(gs: np.ndarray, w: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        end: tuple[list[np.ndarray], np.ndarray] = jax.device_get(steps(gs, w))
        return end

    return run


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    with np.errstate(all="ignore"):
        return bool(np.max(np.abs(a - b)) <= _SAME * np.max(np.abs(a)))


def _parities(
    plus: list[np.ndarray], minus: list[np.ndarray], size: int
) -> tuple[tuple[str, ...], str | None]:
    """Parity of each leaf, from the states that gradients of either sign lead to, and a refusal where one has none."""
    parity, refusal = [], None
    for a, b in zip(plus, minus, strict=True):
        if not jnp.issubdtype(a.dtype, jnp.floating):
            parity.append(COUNTER)
        elif _same(a, b):
            parity.append(EVEN)
        elif _same(a, -b) and a.shape == (size,):
            parity.append(ODD)
        else:
            parity.append(EVEN)
            refusal = (
                "its state neither keeps nor flips its sign with the gradient (a random or lopsided update)"
            )
    return tuple(parity), refusal


def _mixes_coordinates(run: Run, gradients: np.ndarray) -> bool:
    """Whether the update of one half of the weights depends on the gradient of the other."""
    size = gradients.shape[1]
    first = np.arange(size) < (size + 1) // 2
    for scale in _SCALES:
        probe = (gradients * scale).astype(gradients.dtype)
        moved = np.concatenate([probe[:-1], np.where(first, probe[-1:], 3 * probe[-1:])])
        before, after = (run(gs, gradients[0])[1] for gs in (probe, moved))
        if not _same(np.where(first, before, 0), np.where(first, after, 0)):
            return True
    return False


def _shape_dependence(run: Run, dtype: Any) -> str | None:
    """A refusal if the update of a matrix differs from that of its entries in a row (Muon, Shampoo)."""
    gs = np.random.default_rng(1).standard_normal((2, 4, 4)).astype(dtype)
    try:
        matrix, row = (run(g, np.zeros_like(g[0]))[1] for g in (gs, gs.reshape(2, 16)))
    except Exception:  # an optimizer that only takes the flat vector of this problem cannot depend on shapes
        return None
    if not np.allclose(matrix.reshape(16), row, rtol=1e-3, atol=1e-30):
        return "it treats a matrix of weights differently from its entries, and cflow steps one flat vector"
    return None


def _is_separate(run: Run, gradients: np.ndarray, w: np.ndarray, delta: np.ndarray) -> bool:
    """Whether half of the weights alone are updated as they are among all."""
    half = max(len(w) // 2, 1)
    try:
        return _same(delta[:half], run(gradients[:, :half], w[:half])[1])
    except Exception:  # an optimizer that only takes the flat vector of this problem
        return False


def scheduled_leaves(state: Any) -> tuple[bool, ...]:
    """Which leaves of a state count the steps of a learning-rate schedule."""

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    def mark(node: Any) -> Any:
        return jax.tree.map(lambda _: is_schedule(node), node)

    return tuple(jax.tree.leaves(jax.tree.map(mark, state, is_leaf=is_schedule)))
