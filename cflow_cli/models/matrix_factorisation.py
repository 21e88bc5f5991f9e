"""Deep matrix factorisation: a matrix as a product of others, fitted to what is known of it.

    W = W_N ⋯ W_1,   D_j = W_{j+1}ᵀW_{j+1} − W_jW_jᵀ.

Gradient flow conserves each D_j. Where they vanish (balanced factors) the singular values σ_r of W, with singular
vectors u_r and v_r, move by

    dσ_r/dt = −N (σ_r²)^{1 − 1/N} ⟨∇L(W), u_r v_rᵀ⟩,

so that the large ones grow first: an implicit preference for low rank, the stronger the deeper the product.

Source: Arora, Cohen, Hu, Luo, *Implicit Regularization in Deep Matrix Factorization*, arXiv:1905.13655, theorem 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cflow_cli.datasets.dataset import Dataset
from cflow_cli.errors import UserError
from cflow_cli.models.base import Model, numbers, positive

INITS = ("gaussian", "orthogonal", "identity")
# The paper's code has it inside the logarithm of the effective rank; a hundred values of 1e-6 would show without.
_SMALLEST_SHARE = 1e-10


class Factors(NamedTuple):
    """What a factorisation is like at one point.

    Parameters
    ----------
    values
        Singular values of W, largest first, shape (min(rows, columns),).
    nuclear_norm
        Their sum.
    effective_rank
        exp(−Σ p ln p) of their shares p in that sum.
    imbalance
        Σ_j ‖D_j‖_F; 0 at depth 1.
    alignment
        Share of UᵀGV that lies off its diagonal, of Frobenius norms; 0 where W and G = ∇L(W) have the same singular
        vectors.
    rate_error
        Distance of the rates dσ_r/dt of balanced factors from those of gradient flow, relative to the latter.
    """

    values: Float[Array, " values"]
    nuclear_norm: Float[Array, ""]
    effective_rank: Float[Array, ""]
    imbalance: Float[Array, ""]
    alignment: Float[Array, ""]
    rate_error: Float[Array, ""]


class MatrixFactorisation(Model):
    """Outputs W_ij, or ⟨A, W⟩, of the product W = W_N ⋯ W_1.

    Parameters
    ----------
    data
        A data set of the task ``entries``, which sizes W.
    key
        Seed of the initial factors.
    depth
        N, at least 1.
    width
        Rows of all factors but the last, an upper bound on the rank of W; None for the smaller side of W.
    init
        With s = ``init_scale``: ``gaussian`` (N(0, s^{2/N}/fan_in)), ``orthogonal`` or ``identity`` (s^{1/N} times a
        random matrix with orthonormal rows or columns, or ones on the diagonal). The last two are balanced.
    init_scale
        s > 0: the initial product has ‖W‖_F ≈ s √rows.

    Raises
    ------
    UserError
        If an option is not allowed, or the data know of no matrix.
    """

    factors: tuple[Float[Array, "outer inner"], ...]

    def __init__(
        self,
        data: Dataset,
        key: PRNGKeyArray,
        depth: int = 3,
        width: int | None = None,
        init: str = "gaussian",
        init_scale: float = 1e-3,
    ) -> None:
        if data.matrix_shape is None:
            raise UserError(
                f"model matrix_factorisation fits a matrix, but data {data.name} is a {data.task} task: "
                "choose data=completion or data=sensing, or model=deep_linear"
            )
        rows, columns = data.matrix_shape
        width = min(rows, columns) if width is None else width
        positive(depth=depth, width=width)
        numbers(init_scale=init_scale)
        if init_scale <= 0:
            raise UserError(
                f"model.init_scale must be above 0, where the product of matrices rests, got {init_scale}"
            )
        if init not in INITS:
            raise UserError(f"model.init must be one of {', '.join(INITS)}; got {init!r}")
        sizes = (columns, *[width] * (depth - 1), rows)
        factor = _initialiser(init, init_scale ** (1 / depth))
        self.factors = tuple(
            factor(key, (outer, inner))
            for inner, outer, key in zip(sizes[:-1], sizes[1:], jax.random.split(key, depth))
        )

    def __call__(self, x: Int[Array, "n 2"] | Float[Array, "n rows columns"]) -> Float[Array, "n 1"]:
        """Entries of W at index pairs, or its inner products with matrices."""
        if jnp.issubdtype(x.dtype, jnp.integer):
            return self.product[x[:, 0], x[:, 1]][:, None]
        return (x.reshape(len(x), -1) @ self.product.ravel())[:, None]

    @property
    def product(self) -> Float[Array, "rows columns"]:
        """W."""
        product = self.factors[0]
        for factor in self.factors[1:]:
            product = factor @ product
        return product

    def collapsed(self) -> MatrixFactorisation:
        """The same W as a single factor: derivatives by that factor are those by W."""
        return eqx.tree_at(lambda model: model.factors, self, (self.product,))

    def imbalances(self) -> list[Float[Array, "width width"]]:
        """D_j = W_{j+1}ᵀW_{j+1} − W_jW_jᵀ for j = 1 to N − 1."""
        return [after.T @ after - before @ before.T for before, after in zip(self.factors, self.factors[1:])]

    def imbalance_entries(self) -> Float[Array, " entries"]:
        """The D_j, one after the other, each on and above its diagonal and so that squares add up to Σ_j ‖D_j‖_F²."""
        parts = [jnp.zeros(0, self.factors[0].dtype)]
        for d in self.imbalances():
            i, j = jnp.triu_indices(len(d))
            parts.append(jnp.where(i == j, 1.0, 2**0.5).astype(d.dtype) * d[i, j])
        return jnp.concatenate(parts)

    def looked_at(self, gradient: Float[Array, "rows columns"]) -> Factors:
        """Singular values, and how they move under gradient flow.

        Parameters
        ----------
        gradient
            G = ∇L(W), by the product.
        """
        u, values, vt = jnp.linalg.svd(self.product, full_matrices=False)
        turned = u.T @ gradient @ vt.T
        depth = len(self.factors)
        balanced = -depth * values ** (2 - 2 / depth) * jnp.diagonal(turned)
        actual = jnp.diagonal(u.T @ self._velocity(gradient) @ vt.T)
        shares = values / jnp.sum(values)
        norms = [jnp.linalg.norm(d) for d in self.imbalances()]
        return Factors(
            values=values,
            nuclear_norm=jnp.sum(values),
            effective_rank=jnp.exp(-jnp.sum(shares * jnp.log(shares + _SMALLEST_SHARE))),
            imbalance=sum(norms, jnp.zeros((), values.dtype)),
            alignment=jnp.linalg.norm(turned - jnp.diag(jnp.diagonal(turned))) / jnp.linalg.norm(turned),
            rate_error=jnp.linalg.norm(balanced - actual) / jnp.linalg.norm(actual),
        )

    def _velocity(self, gradient: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
        """Ẇ of gradient flow: −Σ_j B_j B_jᵀ G A_jᵀ A_j with A_j = W_{j−1} ⋯ W_1 and B_j = W_N ⋯ W_{j+1}."""
        rows, columns = gradient.shape
        before, after = [jnp.eye(columns, dtype=gradient.dtype)], [jnp.eye(rows, dtype=gradient.dtype)]
        for factor in self.factors[:-1]:
            before.append(factor @ before[-1])
        for factor in self.factors[:0:-1]:
            after.append(after[-1] @ factor)
        parts = [b @ (b.T @ gradient @ a.T) @ a for a, b in zip(before, reversed(after))]
        return -sum(parts, jnp.zeros_like(gradient))


def _initialiser(init: str, size: float) -> Callable[[PRNGKeyArray, tuple[int, int]], Array]:
    if init == "orthogonal":
        orthogonal = jax.nn.initializers.orthogonal(size)
        return lambda key, shape: orthogonal(key, shape, jnp.float32)
    if init == "identity":
        return lambda _, shape: size * jnp.eye(*shape, dtype=jnp.float32)
    return lambda key, shape: size / shape[1] ** 0.5 * jax.random.normal(key, shape, jnp.float32)
