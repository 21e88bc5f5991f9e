"""Stochastic Lanczos quadrature for the spectrum of the Hessian."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from matfree.decomp import tridiag_sym

from cflow_cli.curvature.block import MatVec


def lanczos_quadrature(
    hvp: MatVec, like: Float[Array, " params"], *, steps: int, probes: int, seed: int
) -> tuple[Float[Array, " nodes"], Float[Array, " nodes"]]:
    """Nodes and weights with Σ_j weight_j f(node_j) ≈ Σ_i f(λ_i)/n.

    Parameters
    ----------
    hvp
        V ↦ V H on rows.
    like
        A vector of the length and dtype of the weights.
    steps, probes, seed
        Lanczos steps per random probe of signs, number of probes, and their seed.
    """
    lanczos = tridiag_sym(steps, custom_vjp=False)

    def one(key: Array) -> tuple[Array, Array]:
        probe = jax.random.rademacher(key, like.shape, like.dtype)
        nodes, vectors = jnp.linalg.eigh(lanczos(lambda v: hvp(v[None])[0], probe).J_small)
        return nodes, vectors[0] ** 2 / probes

    nodes, weights = jax.lax.map(one, jax.random.split(jax.random.PRNGKey(seed), probes))
    return nodes.ravel(), weights.ravel()
