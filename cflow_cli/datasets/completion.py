"""Matrix completion: some entries of a matrix, of low rank or one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cflow_cli.datasets.dataset import Dataset, is_count, memory
from cflow_cli.datasets.low_rank import check_noise, low_rank
from cflow_cli.datasets.npz import read_arrays
from cflow_cli.errors import UserError

ARRAYS = ("rows", "columns", "values")
# Rows or columns where neither the config nor a file says how many.
_SIZE = 100
# Part of a made matrix that is observed where the config does not say how many entries are: 2,000 of 10,000.
_OBSERVED = 5
# What integers of a run are.
_LARGEST = np.iinfo(np.int32).max


def completion(
    rows: int | None = None,
    columns: int | None = None,
    rank: int = 5,
    n: int | None = None,
    n_test: int | None = None,
    noise: float = 0.0,
    seed: int = 0,
    path: str | None = None,
    microbatch: int | None = None,
) -> Dataset:
    """Entries of a matrix M, an example each: inputs are the pairs (i, j), targets M_ij.

    Parameters
    ----------
    rows, columns
        Size of M; null for 100, of a file for one more than its largest.
    rank
        Of M, see :func:`cflow_cli.datasets.low_rank.low_rank`; of no meaning with a file.
    n, n_test
        Entries to train and to test on, drawn at random without replacement. Null for a fifth of M, of a file for all
        its entries; and for all others.
    noise
        Standard deviation of what is added to the training entries of a made M, whose mean square is 1.
    seed
        Of M, of which entries are observed, and of the noise.
    path
        An ``.npz`` file with one's own entries: arrays ``rows``, ``columns`` (counted from 0) and ``values`` of one
        length, each entry once.
    microbatch
        See ``Dataset``.

    Raises
    ------
    UserError
        If an option is not allowed, or the file cannot be read or has entries outside the matrix.
    """
    for option, count in (("rows", rows), ("columns", columns), ("n", n), ("n_test", n_test)):
        if count is not None and not is_count(count):
            raise UserError(f"data.{option} must be an integer of at least 1, or null, got {count!r}")
    check_noise(noise)
    rng = np.random.default_rng(seed)
    truth = None
    if path is None:
        shape = rows or _SIZE, columns or _SIZE
        truth = low_rank(*shape, rank, rng)
        pairs, values = np.indices(shape).reshape(2, -1).T, truth.ravel()
        n = n or -(-truth.size // _OBSERVED)
    else:
        pairs, values, shape = _entries(Path(path).expanduser(), rows, columns)
        n = n or len(values)
    if n + (n_test or 0) > len(values):
        asked = f"data.n={n}" if n_test is None else f"data.n={n} and data.n_test={n_test}"
        raise UserError(f"{asked} are more than the {len(values)} entries that there are")
    order = rng.permutation(len(values))
    train, test = order[:n], order[n:][:n_test]
    x, y = pairs.astype(np.int32), values[:, None]
    return Dataset(
        x=x[train],
        y=y[train] if not noise or truth is None else y[train] + noise * rng.normal(size=(n, 1)),
        task="entries",
        input_shape=(2,),
        num_outputs=1,
        name="completion" if path is None else Path(path).stem,
        x_test=x[test] if len(test) else None,
        y_test=y[test] if len(test) else None,
        matrix_shape=shape,
        truth=truth,
        microbatch=microbatch,
    )


def _entries(
    path: Path, rows: int | None, columns: int | None
) -> tuple[NDArray, NDArray[np.float64], tuple[int, int]]:
    """Index pairs (m, 2), values (m,) and the size of the matrix, from a file."""
    arrays = read_arrays(path, ARRAYS)
    for name, array in arrays.items():
        if array.ndim != 1 or len(array) == 0 or len(array) != len(arrays["values"]):
            raise UserError(
                f"{path}: rows, columns and values must be lists of one length, at least one entry; {name} has shape "
                f"{array.shape}"
            )
        whole = array.dtype.kind in "iu" or (array.dtype.kind == "f" and (array == np.round(array)).all())
        is_index = whole and array.min() >= 0 and array.max() <= _LARGEST
        if array.dtype.kind not in "iuf" or (name != "values" and not is_index):
            what = "numbers" if name == "values" else f"whole numbers from 0 to {_LARGEST}"
            raise UserError(f"{path}: {name} must hold {what}, got {array.dtype}")
    pairs = np.stack([arrays["rows"], arrays["columns"]], axis=1).astype(np.int64)
    largest = pairs.max(axis=0)
    shape = rows or int(largest[0]) + 1, columns or int(largest[1]) + 1
    outside = np.flatnonzero((pairs >= shape).any(axis=1))
    if len(outside):
        i, j = pairs[outside[0]]
        raise UserError(
            f"{path}: the entry ({i}, {j}) lies outside the {shape[0]}×{shape[1]} matrix of data.rows and "
            f"data.columns; set data.rows={largest[0] + 1} data.columns={largest[1] + 1}, or leave them out"
        )
    if (size := 8 * shape[0] * shape[1]) > memory() // 2:
        raise UserError(
            f"{path}: a {shape[0]}×{shape[1]} matrix has {size / 1e9:.1f} GB, this machine {memory() / 1e9:.1f} GB of "
            "memory; number rows and columns from 0, without gaps"
        )
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    if counts.max() > 1:
        i, j = found[counts.argmax()]
        raise UserError(f"{path} has the entry ({i}, {j}) {counts.max()} times; give each once")
    return pairs, arrays["values"].astype(np.float64), shape
