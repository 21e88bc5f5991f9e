"""Handwritten digits, 8×8 grey levels: real data that ships with scikit-learn."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cflow_cli.datasets.dataset import Dataset, check_test_size
from cflow_cli.datasets.select import first_per_class, parse_classes, standardise, targets
from cflow_cli.errors import UserError


def digits(
    n: int = 200,
    classes: int | str = 10,
    n_test: int | None = 100,
    microbatch: int | None = None,
) -> Dataset:
    """First ``n/classes`` digits of each of the first classes, normalised over all pixels.

    Parameters
    ----------
    n
        Number of training images (1,797 in all ten classes).
    classes
        2 to 10, or ``binary`` for zeros against ones with targets ±1.
    n_test
        About how many test images (rounded down to a multiple of the classes), taken from those not
        used for training; null for none.
    microbatch
        See ``Dataset``.

    Raises
    ------
    UserError
        If there are not that many, or they cannot be divided among the classes.

    Notes
    -----
    Source: the UCI "Optical Recognition of Handwritten Digits" test set (Alpaydin and Kaynak, 1998).
    """
    check_test_size(n_test)
    count, binary = parse_classes(classes, 10, "digits")
    images, labels = _images()
    chosen = first_per_class(labels, n, count, "digits")
    x_test = y_test = None
    if n_test:
        n_test = max(n_test // count, 1) * count
        rest = np.setdiff1d(np.arange(len(labels)), chosen)
        chosen_test = rest[first_per_class(labels[rest], n_test, count, "the rest of digits", "n_test")]
        x_test, y_test = images[chosen_test], targets(labels[chosen_test], binary)
    x, x_test = standardise(images[chosen], x_test, (0, 1, 2, 3))
    return Dataset(
        x=x,
        y=targets(labels[chosen], binary),
        task="binary" if binary else "classification",
        input_shape=x.shape[1:],
        num_outputs=1 if binary else count,
        name="digits",
        x_test=x_test,
        y_test=y_test,
        microbatch=microbatch,
    )


def _images() -> tuple[np.ndarray, np.ndarray]:
    """All images, (1797, 8, 8, 1), and their classes, as ``sklearn.datasets.load_digits`` reads them.

    From scikit-learn's file without scikit-learn, which takes a second to import with all of ``scipy.stats``.
    """
    found = find_spec("sklearn")
    for folder in (found and found.submodule_search_locations) or ():
        table = np.loadtxt(Path(folder) / "datasets" / "data" / "digits.csv.gz", delimiter=",")
        return table[:, :-1].reshape(-1, 8, 8, 1), table[:, -1].astype(int)
    raise UserError("data=digits comes with scikit-learn, which is not installed; pip install scikit-learn")
