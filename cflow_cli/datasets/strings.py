"""Next-token prediction on strings whose second half follows from the first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cflow_cli.datasets.dataset import Dataset, check_fits, check_test_size
from cflow_cli.errors import UserError


def continued_strings(
    name: str,
    answer: Callable[[NDArray], NDArray],
    n: int,
    n_test: int | None,
    vocabulary: int,
    length: int,
    seed: int,
    microbatch: int | None,
) -> Dataset:
    """Random strings followed by ``answer`` of them, as inputs and targets of next-token prediction.

    Inputs are all tokens but the last, targets all but the first. The first
    ``length − 1`` targets are masked: they are random, so nothing could predict them.

    Raises
    ------
    UserError
        If a size is not allowed.
    """
    check_test_size(n_test)
    limits = {"n": (n, 1), "vocabulary": (vocabulary, 2), "length": (length, 1)}
    for option, (value, least) in limits.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"data.{option} must be an integer of at least {least}, got {value!r}")
    total = n + (n_test or 0)
    check_fits(2 * total * length, f"data.n={n} data.n_test={n_test} data.length={length}")
    questions = np.random.default_rng(seed).integers(0, vocabulary, size=(total, length), dtype=np.int32)
    strings = np.concatenate([questions, answer(questions)], axis=1)
    x, y = strings[:, :-1], strings[:, 1:]
    mask = np.broadcast_to(np.arange(y.shape[1]) >= length - 1, y.shape).copy()
    return Dataset(
        x=x[:n],
        y=y[:n],
        task="tokens",
        input_shape=x.shape[1:],
        num_outputs=vocabulary,
        name=name,
        x_test=x[n:] if n_test else None,
        y_test=y[n:] if n_test else None,
        mask=mask[:n],
        mask_test=mask[n:] if n_test else None,
        vocabulary=vocabulary,
        microbatch=microbatch,
    )
