"""A second moment beside where it would rest, and the speeds of descent under four preconditioners."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cflow_cli.curvature.block import random_rows, track
from cflow_cli.flows import preconditioner
from cflow_cli.problem import Linearization

# S enters the speed 2‖∇L‖²/S, and a Ritz value errs by the square of its residual: 1 % leaves four digits.
_TOLERANCE = 0.01
# The first evaluation starts from random vectors.
_ITERATIONS = 200


class Programs(NamedTuple):
    """Where the next evaluation starts from.

    Parameters
    ----------
    guesses
        For the program of P̄ and for that without its second term, stacked.
    hessian
        Top eigenvectors of H, shape (2, n).
    """

    guesses: preconditioner.Guess
    hessian: Float[Array, "few params"]


def begin(rank: int, like: Float[Array, " params"]) -> Programs:
    """Random vectors: the first evaluation takes as long as it needs."""
    key, own = jax.random.split(jax.random.PRNGKey(0))
    guess = preconditioner.random_guess(key, rank, jnp.ones_like(like))
    rows = random_rows(own, min(2, len(like)), len(like), like.dtype)
    return Programs(jax.tree.map(lambda a: jnp.stack([a, a]), guess), rows)


def compare(
    linear: Linearization,
    d: Float[Array, " params"],
    eta: Float[Array, ""],
    programs: Programs,
    tolerance: float,
) -> tuple[dict[str, Array], Float[Array, " params"], Programs, Int[Array, ""]]:
    """How near ν = D⁻² is to ν̄ = (ηP̄)², and the speeds ∇LᵀP⁻¹∇L of P = D⁻¹, P̄, the P of least trace, and (S/2)I.

    Parameters
    ----------
    linear, d, eta
        L, ∇L and H; D and η of the step.
    programs
        From :func:`begin`, or the evaluation before.
    tolerance
        Of the relative duality gap.

    Returns
    -------
    columns, p, programs, hvps
        Numbers by column, P̄ of each weight, where the next evaluation starts, and Hessian-vector products spent.
    """
    g = linear.gradient
    # One program in the compiler's eyes, with and without the second term.
    both, after = jax.lax.map(
        lambda parts: preconditioner.solve(linear.hvp, parts[0], parts[1], tolerance),
        (jnp.stack([jnp.abs(g) / eta, jnp.zeros_like(g)]), programs.guesses),
    )
    full, trace = (jax.tree.map(lambda a, i=i: a[i], both) for i in (0, 1))
    top = track(linear.hvp, programs.hessian, above=jnp.inf, tolerance=_TOLERANCE, max_iterations=_ITERATIONS)
    moment, rest = d**-2, full.p**2
    columns = {
        "nu_cosine": moment @ rest / (jnp.linalg.norm(moment) * jnp.linalg.norm(rest)),
        "speed": g @ (d * g),
        "speed_stationary": g @ (g / full.p),
        "speed_trace": g @ (g / trace.p),
        "speed_sharpness": 2 * (g @ g) / top.values[0],
        "stationary_gap": jnp.maximum(full.gap, trace.gap),
    }
    return columns, full.p, Programs(after, top.ahead), full.hvps + trace.hvps + top.hvps
