"""Classes made of Gaussian clusters, from scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import make_blobs

from cflow_cli.datasets.dataset import Dataset, check_fits, check_test_size
from cflow_cli.datasets.select import parse_classes, standardise, targets
from cflow_cli.errors import UserError


def gaussian(
    n: int = 100,
    classes: int | str = 2,
    features: int = 20,
    clusters: int = 2,
    separation: float = 0.5,
    n_test: int | None = None,
    seed: int = 0,
    microbatch: int | None = None,
) -> Dataset:
    """Points of unit variance around random centres, several centres to a class.

    Parameters
    ----------
    n, n_test
        Number of training and of test points; null for no test points.
    classes
        2 to n, or ``binary`` for targets ±1.
    features
        Length of an input; each feature is scaled to mean 0 and variance 1.
    clusters
        Centres per class; from two on, classes are not linearly separable.
    separation
        Standard deviation of each coordinate of the centres.
    seed
        Of the centres and points.
    microbatch
        See ``Dataset``.

    Raises
    ------
    UserError
        If an option is not allowed.
    """
    check_test_size(n_test)
    for option, value, least in (("n", n, 2), ("features", features, 1), ("clusters", clusters, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"data.{option} must be an integer of at least {least}, got {value!r}")
    count, binary = parse_classes(classes, n, f"{n} points")
    most = max(n, n_test or 0, clusters * count)
    check_fits(
        most * features, f"data.n={n} data.n_test={n_test} data.features={features} data.clusters={clusters}"
    )
    centres = np.random.default_rng(seed).normal(scale=separation, size=(clusters * count, features))

    def draw(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        x, cluster = make_blobs(size, centers=centres, random_state=seed)
        return x, targets(cluster % count, binary)

    x, y = draw(n, seed)
    x_test, y_test = draw(n_test, seed + 1) if n_test else (None, None)
    x, x_test = standardise(x, x_test, (0,))
    return Dataset(
        x=x,
        y=y,
        task="binary" if binary else "classification",
        input_shape=(features,),
        num_outputs=1 if binary else count,
        name="gaussian",
        x_test=x_test,
        y_test=y_test,
        microbatch=microbatch,
    )
