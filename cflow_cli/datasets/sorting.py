"""Strings followed by themselves, sorted."""

from __future__ import annotations

import numpy as np

from cflow_cli.datasets.dataset import Dataset
from cflow_cli.datasets.strings import continued_strings


def sorting(
    n: int = 1000,
    n_test: int | None = None,
    vocabulary: int = 4,
    length: int = 8,
    seed: int = 0,
    microbatch: int | None = None,
) -> Dataset:
    """Next-token prediction on "string + sorted string", the targets within the first string masked.

    Parameters
    ----------
    n, n_test
        Number of training and of test strings; null for no test strings.
    vocabulary
        Number of letters.
    length
        Letters of each string before it is sorted.
    seed
        Of the random strings.
    microbatch
        See ``Dataset``.

    Raises
    ------
    UserError
        If a size is not allowed.
    """
    return continued_strings(
        "sorting", lambda strings: np.sort(strings, axis=1), n, n_test, vocabulary, length, seed, microbatch
    )
