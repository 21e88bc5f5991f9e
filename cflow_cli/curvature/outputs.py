"""First and second derivatives of single outputs of a network."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from matfree.decomp import tridiag_sym


def output_derivatives(
    outputs: Callable[[Float[Array, " params"]], Float[Array, " outputs"]],
    w: Float[Array, " params"],
    *,
    steps: int,
    seed: int = 0,
) -> tuple[Float[Array, " outputs"], Float[Array, " outputs"]]:
    """‖∇f_k‖ and the spectral norm ‖∇²f_k‖ of each output, by Lanczos from a random vector.

    Parameters
    ----------
    outputs
        w ↦ the outputs f_k.
    w
        Weights, shape (n,).
    steps
        Lanczos steps: Hessian-vector products per output.
    seed
        Of the vector.
    """
    count = jax.eval_shape(outputs, w).shape[0]
    probe = jax.random.normal(jax.random.PRNGKey(seed), w.shape, w.dtype)
    lanczos = tridiag_sym(min(steps, len(w)), custom_vjp=False)

    def of(k: Array) -> tuple[Array, Array]:
        gradient, hvp = jax.linearize(jax.grad(lambda w: outputs(w)[k]), w)
        matrix = _before_breakdown(lanczos(hvp, probe).J_small)
        return jnp.linalg.norm(gradient), jnp.max(jnp.abs(jnp.linalg.eigvalsh(matrix)))

    gradients, norms = jax.lax.map(of, jnp.arange(count))
    return gradients, norms


def _before_breakdown(matrix: Float[Array, "steps steps"]) -> Float[Array, "steps steps"]:
    """Lanczos' matrix up to where nothing new was left to go on with, and zero beyond.

    That is after as many steps as the Hessian has rank: at once where a network is linear in its weights.
    """
    beside = jnp.diag(matrix, 1)
    scale = jnp.nanmax(jnp.abs(matrix))
    goes_on = jnp.cumprod(jnp.abs(beside) > jnp.sqrt(jnp.finfo(matrix.dtype).eps) * scale)
    known = jnp.concatenate([jnp.ones(1), goes_on]) > 0
    return jnp.where(known[:, None] & known, matrix, 0)
