"""Two interleaved half circles, and two nested circles: points in the plane, from scikit-learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.datasets import make_circles, make_moons

from cflow_cli.datasets.dataset import Dataset, check_fits, check_test_size
from cflow_cli.datasets.select import targets
from cflow_cli.errors import UserError

Draw = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def _check(n: int, noise: float) -> None:
    if not isinstance(n, int) or isinstance(n, bool) or n < 2:
        raise UserError(f"data.n must be an integer of at least 2, got {n!r}")
    if noise < 0:
        raise UserError(f"data.noise must be at least 0, got {noise!r}")


def _planar(name: str, draw: Draw, n: int, n_test: int | None, seed: int, microbatch: int | None) -> Dataset:
    check_test_size(n_test)
    check_fits(2 * max(n, n_test or 0), f"data.n={n} data.n_test={n_test}")

    def split(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        x, labels = draw(size, seed)
        return x.astype(np.float32), targets(labels, binary=True)

    x, y = split(n, seed)
    x_test, y_test = split(n_test, seed + 1) if n_test else (None, None)
    return Dataset(
        x=x,
        y=y,
        task="binary",
        input_shape=(2,),
        num_outputs=1,
        name=name,
        x_test=x_test,
        y_test=y_test,
        microbatch=microbatch,
    )


def moons(
    n: int = 200,
    noise: float = 0.2,
    n_test: int | None = None,
    seed: int = 10,
    microbatch: int | None = None,
) -> Dataset:
    """Two interleaved half circles with targets ±1.

    Parameters
    ----------
    n, n_test
        Number of training and of test points; null for no test points.
    noise
        Standard deviation of the noise on each coordinate.
    seed
        Of the noise and the order.
    microbatch
        See ``Dataset``.

    Raises
    ------
    UserError
        If an option is not allowed.
    """
    _check(n, noise)

    def draw(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return make_moons(size, noise=noise, random_state=seed)

    return _planar("moons", draw, n, n_test, seed, microbatch)


def circles(
    n: int = 200,
    noise: float = 0.2,
    factor: float = 0.8,
    n_test: int | None = None,
    seed: int = 10,
    microbatch: int | None = None,
) -> Dataset:
    """Two nested circles with targets ±1; arguments as for ``moons``.

    Parameters
    ----------
    factor
        Radius of the inner circle as a part of the outer one's, 0 to 1.

    Raises
    ------
    UserError
        If an option is not allowed.
    """
    _check(n, noise)
    if not 0 <= factor < 1:
        raise UserError(f"data.factor must be at least 0 and below 1, got {factor!r}")

    def draw(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return make_circles(size, noise=noise, factor=factor, random_state=seed)

    return _planar("circles", draw, n, n_test, seed, microbatch)
