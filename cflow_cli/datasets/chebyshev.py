"""Regression on a Chebyshev polynomial, the smallest task in the edge-of-stability literature."""

from __future__ import annotations

import numpy as np

from cflow_cli.datasets.dataset import Dataset, check_fits, check_test_size
from cflow_cli.errors import UserError


def chebyshev(
    n: int = 20, degree: int = 3, n_test: int | None = None, microbatch: int | None = None
) -> Dataset:
    """Evenly spaced x in [−1, 1] and y = T_degree(x) = cos(degree · arccos x).

    Parameters
    ----------
    n
        Number of training points, at least 2.
    degree
        Of the polynomial, at least 1; the literature uses 3, 4 and 5.
    n_test
        Number of evenly spaced test points; null for none.
    microbatch
        See ``Dataset``.

    Raises
    ------
    UserError
        If a size is not allowed.

    Notes
    -----
    Source: Cohen et al., arXiv 2103.00065, appendix on Chebyshev regression.
    """
    check_test_size(n_test)
    for option, value, least in (("n", n, 2), ("degree", degree, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"data.{option} must be an integer of at least {least}, got {value!r}")
    check_fits(2 * max(n, n_test or 0), f"data.n={n} data.n_test={n_test}")

    def points(count: int) -> tuple[np.ndarray, np.ndarray]:
        x = np.linspace(-1, 1, count)
        return x[:, None].astype(np.float32), np.cos(degree * np.arccos(x))[:, None].astype(np.float32)

    x, y = points(n)
    x_test, y_test = points(n_test) if n_test else (None, None)
    return Dataset(
        x=x,
        y=y,
        task="regression",
        input_shape=(1,),
        num_outputs=1,
        name="chebyshev",
        x_test=x_test,
        y_test=y_test,
        microbatch=microbatch,
    )
