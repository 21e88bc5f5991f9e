"""Matrix sensing: random linear measurements of a matrix of low rank."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cflow_cli.datasets.dataset import Dataset, check_fits, check_test_size, is_count
from cflow_cli.datasets.low_rank import check_noise, low_rank
from cflow_cli.errors import UserError


def sensing(
    rows: int = 30,
    columns: int = 30,
    rank: int = 3,
    n: int = 250,
    n_test: int | None = None,
    noise: float = 0.0,
    seed: int = 0,
    microbatch: int | None = None,
) -> Dataset:
    """Measurements y = ⟨A, M⟩ of a matrix M, an example each: inputs are the A, with entries N(0, 1)/√(rows·columns).

    Parameters
    ----------
    rows, columns, rank
        Of M, see :func:`cflow_cli.datasets.low_rank.low_rank`; y has variance 1.
    n, n_test
        Number of training and of test measurements, rows·columns numbers each; null for no test measurements.
    noise
        Standard deviation of what is added to the training targets.
    seed
        Of M, the measurements and the noise.
    microbatch
        See ``Dataset``.

    Raises
    ------
    UserError
        If an option is not allowed.
    """
    check_test_size(n_test)
    if not is_count(n):
        raise UserError(f"data.n must be an integer of at least 1, got {n!r}")
    check_noise(noise)
    rng = np.random.default_rng(seed)
    truth = low_rank(rows, columns, rank, rng)
    asked = f"data.n={n} data.n_test={n_test} data.rows={rows} data.columns={columns}"
    check_fits((n + (n_test or 0)) * rows * columns, asked)

    def draw(count: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        a = rng.standard_normal((count, rows, columns), np.float32) / np.float32(math.sqrt(rows * columns))
        return a, np.einsum("kij,ij->k", a, truth)[:, None]

    x, y = draw(n)
    y = y + noise * rng.normal(size=y.shape)
    x_test, y_test = draw(n_test) if n_test else (None, None)
    return Dataset(
        x=x,
        y=y,
        task="entries",
        input_shape=(rows, columns),
        num_outputs=1,
        name="sensing",
        x_test=x_test,
        y_test=y_test,
        matrix_shape=(rows, columns),
        truth=truth,
        microbatch=microbatch,
    )
