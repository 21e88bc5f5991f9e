"""The top of each diagonal block of the Hessian."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cflow_cli.curvature.block import MatVec, track


def largest_of_blocks(
    hvp: MatVec,
    block: Int[Array, " params"],
    vectors: Float[Array, " params"],
    blocks: int,
    *,
    tolerance: float,
    max_iterations: int,
) -> tuple[Float[Array, " blocks"], Float[Array, " params"], Int[Array, ""]]:
    """Largest eigenvalue of every diagonal block of H, one block after the other in one program.

    Parameters
    ----------
    hvp
        V ↦ V H on rows.
    block
        Which block each weight belongs to, 0 to ``blocks`` − 1.
    vectors
        Eigenvectors to start from: the part of each block is its own.
    blocks
        How many there are.
    tolerance, max_iterations
        As of :func:`cflow_cli.curvature.block.track`, per block.

    Returns
    -------
    values, vectors, hvps
        Eigenvalues, their eigenvectors in the form of ``vectors``, and Hessian-vector products spent.
    """
    dtype = vectors.dtype
    probe = jnp.cos(jnp.arange(len(block), dtype=dtype))

    def one(number: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        values, vectors, hvps = carry
        inside = (block == number).astype(dtype)
        pairs = track(
            lambda rows: inside * hvp(inside * rows),
            # A second direction, else two close eigenvalues take long to tell apart.
            inside * jnp.stack([vectors, probe]),
            above=jnp.inf,
            tolerance=tolerance,
            max_iterations=max_iterations,
        )
        vectors = jnp.where(inside > 0, pairs.vectors[0], vectors)
        return values.at[number].set(pairs.values[0]), vectors, hvps + pairs.hvps

    none = jnp.zeros(blocks, dtype), vectors, jnp.zeros((), jnp.int32)
    return jax.lax.fori_loop(0, blocks, one, none)
