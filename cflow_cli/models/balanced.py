"""How sharp the loss of a matrix factorisation is where it fits, and so which learning rates are stable there."""

from __future__ import annotations

import numpy as np

from cflow_cli.datasets.dataset import Dataset
from cflow_cli.errors import UserError

# Relative change of the eigenvalue at which the power iteration ends.
_PRECISION = 1e-6
_MOST_ITERATIONS = 1000


def balanced_sharpness(data: Dataset, depth: int) -> float:
    """λ_max of the Hessian where balanced factors of the true matrix M fit all data, for the loss ``mse``.

    At zero residual H = JᵀJ/n, and JJᵀ is, for factors with W_{j+1}ᵀW_{j+1} = W_jW_jᵀ,

        E ↦ 𝒜(Σ_j (MMᵀ)^{(N−j)/N} 𝒜*(E) (MᵀM)^{(j−1)/N}),   j = 1 to N,

    whose largest eigenvalue a power iteration finds. Where all entries of an a×b matrix are observed it is
    λ_max = N σ₁^{2−2/N}/(ab). Gradient descent with η above 2/λ_max cannot rest there.

    Parameters
    ----------
    data
        Of the task ``entries``, with its ``truth``.
    depth
        N.

    Raises
    ------
    UserError
        If the data do not know M.

    Examples
    --------
    >>> from cflow_cli.datasets.completion import completion
    >>> data = completion(rows=4, columns=9, rank=1, n=36)  # σ₁ = 6
    >>> round(balanced_sharpness(data, depth=2), 6)
    0.333333
    """
    if data.truth is None:
        raise UserError(
            f"data {data.name} does not know its matrix, so the sharpness of its factors is not known"
        )
    left, values, right = np.linalg.svd(data.truth, full_matrices=False)
    values = np.where(values > 1e-12 * values[0], values, 0)

    def power(vectors: np.ndarray, exponent: float) -> np.ndarray:
        # The zeroth is the identity on the whole space, on which a factor is free to move.
        if exponent == 0:
            return np.eye(len(vectors))
        return (vectors * values ** (2 * exponent)) @ vectors.T

    sides = [(power(left, (depth - j) / depth), power(right.T, (j - 1) / depth)) for j in range(1, depth + 1)]
    pairs, measurements = tuple(data.x.T), data.x.reshape(len(data.x), -1)
    is_pairs = data.x.dtype.kind in "iu"
    e = np.random.default_rng(0).normal(size=len(data))
    found = 0.0
    for _ in range(_MOST_ITERATIONS):
        e = e / np.linalg.norm(e)
        if is_pairs:
            whole = np.zeros(data.truth.shape)
            whole[pairs] = e
        else:
            whole = (e @ measurements).reshape(data.truth.shape)
        moved = sum(a @ whole @ b for a, b in sides)
        new = moved[pairs] if is_pairs else measurements @ np.ravel(moved)
        before, found = found, float(e @ new) / len(data)
        if abs(found - before) <= _PRECISION * found:
            break
        e = new
    return found
