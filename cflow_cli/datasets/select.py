"""Choosing examples per class, and normalising, the same way for every image data set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cflow_cli.errors import UserError


def parse_classes(classes: int | str, available: int, name: str) -> tuple[int, bool]:
    """Read ``classes``: a number of classes, or ``binary`` for the first two with ±1 targets.

    Returns
    -------
    count, binary
        Number of classes, and whether targets are ±1.

    Raises
    ------
    UserError
        If it is neither, or out of range.
    """
    if classes == "binary":
        return 2, True
    if not isinstance(classes, int) or isinstance(classes, bool) or not 2 <= classes <= available:
        raise UserError(
            f"data.classes must be 2 to {available} (the first classes of {name}) or binary; got {classes!r}"
        )
    return classes, False


def first_per_class(
    labels: NDArray, n: int, classes: int, name: str, option: str = "n", skip: int = 0
) -> NDArray:
    """Indices of the first ``n/classes`` examples of each class after ``skip`` ones, in the data set's order.

    Raises
    ------
    UserError
        If ``n`` is not divisible among the classes or exceeds what is there.
    """
    if not isinstance(skip, int) or isinstance(skip, bool) or skip < 0:
        raise UserError(f"data.skip must be a whole number from 0, got {skip!r}")
    if not isinstance(n, int) or isinstance(n, bool) or n < classes or n % classes:
        raise UserError(
            f"data.{option} must be a positive multiple of the {classes} classes; got {n!r}"
            + (f", try {max(1, round(n / classes)) * classes}" if isinstance(n, int) else "")
        )
    each = n // classes
    counts = np.array([np.count_nonzero(labels == c) for c in range(classes)])
    left = max(counts.min() - skip, 0)
    if each > left:
        after = f" after data.skip={skip}" if skip else ""
        raise UserError(
            f"data.{option}={n} asks for {each} examples of each of {classes} classes, but {name} has only "
            f"{left} of class {counts.argmin()}{after}; at most {classes * left} can be used"
        )
    chosen = [np.flatnonzero(labels == c)[skip : skip + each] for c in range(classes)]
    return np.sort(np.concatenate(chosen))


def targets(labels: NDArray, binary: bool) -> NDArray:
    """Class numbers as int32, or −1 for class 0 and +1 for class 1."""
    return np.where(labels == 0, -1.0, 1.0).astype(np.float32) if binary else labels.astype(np.int32)


def standardise(x: NDArray, x_test: NDArray | None, axes: tuple[int, ...]) -> tuple[NDArray, NDArray | None]:
    """Shift and scale to mean 0 and variance 1 over ``axes`` of the training inputs (float32 results).

    A feature that never varies is only shifted.
    """
    x = x.astype(np.float64)
    mean = x.mean(axis=axes, keepdims=True)
    deviation = x.std(axis=axes, keepdims=True)
    deviation = np.where(deviation > 0, deviation, 1.0)
    scaled_test = None if x_test is None else ((x_test - mean) / deviation).astype(np.float32)
    return ((x - mean) / deviation).astype(np.float32), scaled_test
