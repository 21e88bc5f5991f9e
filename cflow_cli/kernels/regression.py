"""What a kernel says of training: regression with it, its spectrum, and gradient descent in closed form."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Regression(NamedTuple):
    """Kernel regression without a ridge, and the spectrum of the kernel.

    Parameters
    ----------
    fitted
        Predictions for the training inputs (n, k): the targets, where the kernel has full rank.
    predicted
        Predictions for the test inputs (m, k).
    eigenvalues
        Of the kernel, ascending (n,).
    """

    fitted: NDArray
    predicted: NDArray
    eigenvalues: NDArray

    @property
    def condition(self) -> float:
        """Largest over smallest eigenvalue; infinite where the kernel is singular."""
        low, high = self.eigenvalues[[0, -1]]
        return float(high / low) if low > 0 else float("inf")

    @property
    def edge_lr(self) -> float:
        """2n/λ_max: above it, gradient descent on the mean of ½‖f − y‖² diverges for the linearised network."""
        return float(2 * len(self.eigenvalues) / self.eigenvalues[-1])


def regress(kernel: NDArray, cross: NDArray, targets: NDArray) -> Regression:
    """K(x*, X) K(X, X)⁺ Y, the limit of gradient flow from f = 0 on the squares (arXiv:1904.11955, eq. 2).

    Parameters
    ----------
    kernel
        K(X, X), (n, n).
    cross
        K(x*, X), (m, n).
    targets
        Y, (n, k).

    Notes
    -----
    In float64 whatever the kernel's precision, because its condition number is easily 10⁵; eigenvalues that are
    rounding in that precision count as 0, and the solution is the one of smallest norm.
    """
    precision = np.finfo(kernel.dtype).eps
    values, vectors = np.linalg.eigh(kernel.astype(np.float64))
    kept = values > len(values) * precision * max(values[-1], 0.0)
    vectors = vectors[:, kept]
    weights = (vectors.T @ targets) / values[kept, None]
    fitted = vectors @ (vectors.T @ targets)
    return Regression(fitted, cross.astype(np.float64) @ (vectors @ weights), values)


class Trajectory(NamedTuple):
    """Outputs along gradient descent: for the training inputs (steps, n, k), and for the test inputs (steps, m, k)."""

    outputs: NDArray
    test_outputs: NDArray


def gradient_descent(
    kernel: NDArray,
    cross: NDArray,
    targets: NDArray,
    start: NDArray,
    test_start: NDArray,
    learning_rate: float,
    steps: NDArray,
) -> Trajectory:
    """Gradient descent on the mean of ½‖f − y‖² with a constant tangent kernel, in closed form.

    f_t − y = (I − ηΘ/n)ᵗ (f_0 − y), and f*_t = f*_0 − Θ* Θ⁻¹ [I − (I − ηΘ/n)ᵗ] (f_0 − y) for further inputs
    (Lee et al., arXiv:1902.06720, eq. 10 and 11, with steps in place of time).

    Parameters
    ----------
    kernel, cross
        Θ, (n, n), and Θ*, (m, n), each between inputs, the same for all k outputs.
    targets, start
        y and f_0, (n, k).
    test_start
        f*_0, (m, k).
    learning_rate
        η.
    steps
        The t for which outputs are wanted, (steps,).
    """
    n = len(kernel)
    values, vectors = np.linalg.eigh(kernel.astype(np.float64))
    rates = learning_rate * values / n
    residual = vectors.T @ (start - targets)
    left = (1 - rates) ** np.asarray(steps)[:, None]
    # (1 − (1 − r)ᵗ)/r, which is t where the rate r is 0.
    tiny = np.abs(rates) < 1e-12
    taken = np.where(tiny, np.asarray(steps)[:, None], (1 - left) / np.where(tiny, 1, rates))
    outputs = targets + np.einsum("ij,tj,jk->tik", vectors, left, residual)
    moved = np.einsum("ij,tj,jk->tik", cross.astype(np.float64) @ vectors, taken, residual)
    return Trajectory(outputs, test_start - learning_rate / n * moved)
