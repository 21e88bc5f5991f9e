"""A random matrix of low rank, of which some entries or linear measurements are given."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cflow_cli.datasets.dataset import check_fits, is_count
from cflow_cli.errors import UserError


def low_rank(rows: int, columns: int, rank: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """M = UVᵀ with Gaussian U and V of ``rank`` columns, scaled to a mean square of its entries of 1.

    Parameters
    ----------
    rows, columns
        Size of M.
    rank
        1 to the smaller of the two.
    rng
        Draws U, then V.

    Raises
    ------
    UserError
        If the rank is larger than the matrix, or a number is none.

    Notes
    -----
    Arora, Cohen, Hu, Luo, arXiv:1905.13655, section 2.2.
    """
    for option, value in (("rows", rows), ("columns", columns), ("rank", rank)):
        if not is_count(value):
            raise UserError(f"data.{option} must be an integer of at least 1, got {value!r}")
    if rank > min(rows, columns):
        raise UserError(
            f"data.rank={rank} is above the size of a {rows}×{columns} matrix, whose rank is at most "
            f"{min(rows, columns)}; lower data.rank, or raise data.rows and data.columns"
        )
    check_fits(rows * columns, f"data.rows={rows} data.columns={columns}")
    product = rng.normal(size=(rows, rank)) @ rng.normal(size=(columns, rank)).T
    return product * (math.sqrt(rows * columns) / np.linalg.norm(product))


def check_noise(noise: float) -> None:
    """Check a standard deviation that a config asks for.

    Raises
    ------
    UserError
        If it is negative, or not finite.
    """
    if not (math.isfinite(noise) and noise >= 0):
        raise UserError(f"data.noise must be a number of at least 0, got {noise!r}")
