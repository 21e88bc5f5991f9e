"""How processes follow the top of their spectrum from step to step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cflow_cli.curvature import pencil
from cflow_cli.curvature.block import MatVec, preconditioned, random_rows, track
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.optimizers.operator_map import OperatorMap
from cflow_cli.optimizers.update_map import UpdateMap

# A small admixture keeps the last guard vector from sitting on one eigenvector while another rises past it: a twentieth
# is found again by one product, and costs the vector a four-hundredth of its eigenvalue.
_PROBE = 0.05
# How far that admixture is rolled along the weights per step: a prime, so that it comes back late.
_SHIFT = 7919


class Seen(NamedTuple):
    """A spectrum where it was looked at: rows for the next look, values, the worst residual, products, success."""

    vectors: Float[Array, "block params"]
    values: Float[Array, " block"]
    residual: Float[Array, ""]
    hvps: Int[Array, ""]
    converged: Bool[Array, ""]


def look(
    due: Bool[Array, ""] | None,
    follow: Callable[..., Any],
    rows: Float[Array, "block params"],
    probe: Callable[[Array], Array],
    eigs: EigsOptions,
    above: float,
    iterations: int | Int[Array, ""],
) -> Seen:
    """Follow a spectrum at a step where that is due (None: always), else leave its rows; what is not seen is NaN.

    ``follow`` is of the form of :func:`cflow_cli.curvature.block.track`, its product given; see :func:`follower`.
    """

    def measure(_: None) -> Seen:
        pairs = follow(
            probe(rows),
            above=above,
            critical=eigs.critical_above,
            tolerance=eigs.tolerance,
            max_iterations=iterations,
        )
        return Seen(pairs.ahead, pairs.values, critical_residual(pairs, eigs), pairs.hvps, pairs.converged)

    def skip(_: None) -> Seen:
        nothing = jnp.full((), jnp.nan, rows.dtype)
        unknown = jnp.full(rows.shape[0], jnp.nan, rows.dtype)
        return Seen(rows, unknown, nothing, jnp.zeros((), jnp.int32), jnp.asarray(True))

    return measure(None) if due is None else jax.lax.cond(due, measure, skip, None)


def follower(optimizer: UpdateMap | OperatorMap, hvp: MatVec, step_size: Any) -> Callable[..., Any]:
    """What follows the spectrum of D^½ H D^½, with D of one step: its diagonal, or what an operator is made of."""
    if isinstance(optimizer, OperatorMap) and optimizer.is_operator:
        return partial(pencil.track, hvp, lambda rows: optimizer.response(step_size, rows)[0])
    return partial(track, preconditioned(hvp, step_size))


def critical_residual(pairs: Any, eigs: EigsOptions) -> Array:
    """Largest residual of a critical pair, and of the first, as a part of its eigenvalue."""
    wanted = (pairs.values > eigs.critical_above) | (jnp.arange(pairs.values.shape[0]) == 0)
    return jnp.max(jnp.where(wanted, pairs.residuals / jnp.abs(pairs.values), 0))


def probed(rows: Array, probe: Array, step: Array) -> Array:
    """Rows with an admixture in the last that the step decides, from where a rising eigenvector is found."""
    # Shifted by another distance at each step: new random numbers would cost up to half a gradient.
    return rows.at[-1].add(_PROBE * jnp.roll(probe, step * _SHIFT))


def resized(rows: Array, block: int, key: Array) -> Array:
    """The first ``block`` rows, or all and random ones after them."""
    if block <= rows.shape[0]:
        return rows[:block]
    return jnp.concatenate([rows, random_rows(key, block - rows.shape[0], rows.shape[1], rows.dtype)])
