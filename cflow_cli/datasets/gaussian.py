"""Classes made of Gaussian clusters, from scikit-learn."""

from __future__ import annotations

from cflow_cli.datasets.dataset import Dataset
from cflow_cli.datasets.select import parse_classes, standardise, targets
from cflow_cli.errors import UserError


def gaussian(
    n: int = 100,
    classes: int | str = 2,
    features: int = 20,
    informative: int = 5,
    n_test: int | None = None,
    seed: int = 0,
    microbatch: int | None = None,
) -> Dataset:
    """Two Gaussian clusters per class at corners of a cube, among features that say nothing.

    Parameters
    ----------
    n, n_test
        Number of training and of test points; null for no test points.
    classes
        2 or more, or ``binary`` for targets ±1.
    features
        Length of an input; each feature is scaled to mean 0 and variance 1.
    informative
        Features that depend on the class; two more are mixtures of them, the rest are noise.
    seed
        Of everything random.
    microbatch
        See ``Dataset``.

    Raises
    ------
    UserError
        If the sizes do not fit together.
    """
    from sklearn.datasets import make_classification

    if not isinstance(n, int) or isinstance(n, bool) or n < 2:
        raise UserError(f"data.n must be an integer of at least 2, got {n!r}")
    if informative < 1 or features < informative + 2:
        raise UserError(
            f"data.features must be at least data.informative + 2 = {informative + 2}, got {features}"
        )
    count, binary = parse_classes(classes, 2 ** (informative - 1), f"{informative} informative features")
    x, labels = make_classification(
        n + (n_test or 0),
        n_features=features,
        n_informative=informative,
        n_classes=count,
        random_state=seed,
    )
    train, x_test = standardise(x[:n], x[n:] if n_test else None, (0,))
    return Dataset(
        x=train,
        y=targets(labels[:n], binary),
        task="binary" if binary else "classification",
        input_shape=(features,),
        num_outputs=1 if binary else count,
        name="gaussian",
        x_test=x_test,
        y_test=targets(labels[n:], binary) if n_test else None,
        microbatch=microbatch,
    )
