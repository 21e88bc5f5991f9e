"""What every data set hands to a model and a loss: plain arrays and a few facts about them."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cflow_cli.errors import UserError

TASKS = ("classification", "binary", "regression", "tokens", "entries")


def is_count(value: object) -> bool:
    """Whether a value is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_test_size(n_test: int | None) -> None:
    """Check the number of test examples that a config asks for.

    Raises
    ------
    UserError
        If it is neither null nor an integer of at least 1.
    """
    if n_test is not None and not is_count(n_test):
        raise UserError(f"data.n_test must be an integer of at least 1 (or null for none), got {n_test!r}")


def check_fits(numbers: int, asked: str) -> None:
    """Check, before they are made, that arrays that a config asks for fit into this machine's memory.

    Parameters
    ----------
    numbers
        How many they have, of eight bytes each.
    asked
        The options that say so, as the user writes them.

    Raises
    ------
    UserError
        If they take more than half of it.
    """
    size, most = 8 * numbers, memory()
    if size > most / 2:
        raise UserError(
            f"{asked}: {size / 1e9:.3g} GB of numbers, but this machine has {most / 1e9:.3g} GB of memory; "
            "ask for fewer"
        )


def memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test arrays with the facts that size a model's first and last layer.

    Parameters
    ----------
    x
        Inputs ``(n, *input_shape)``: floats, or int32 tokens ``(n, T)``; for ``entries`` index pairs, int32 ``(n, 2)``,
        or matrices A, floats ``(n, *matrix_shape)``.
    y
        Targets: int32 classes ``(n,)`` for ``classification``, floats ±1 ``(n,)`` for ``binary``,
        floats ``(n, num_outputs)`` for ``regression``, int32 tokens ``(n, T)`` for ``tokens``, floats ``(n, 1)`` for
        ``entries``: M_ij, or ⟨A, M⟩, of a matrix M that is sought.
    task
        One of ``TASKS``.
    input_shape
        Shape of one input.
    num_outputs
        Outputs of the model per example (per position for tokens).
    name
        Name shown to the user.
    x_test, y_test
        Test split in the same form, or None.
    mask, mask_test
        Bool ``(n, T)``, True where a target counts, or None when all do.
    vocabulary
        Number of different tokens, for ``tokens`` only.
    matrix_shape
        Size of M, for ``entries`` only.
    truth
        M, of that size, where it is known.
    microbatch
        Examples per slice in which losses and derivatives are accumulated, None for all at once.
        It changes memory, not results.

    Raises
    ------
    UserError
        If shapes, types or values contradict each other.
    """

    x: NDArray
    y: NDArray
    task: str
    input_shape: tuple[int, ...]
    num_outputs: int
    name: str
    x_test: NDArray | None = None
    y_test: NDArray | None = None
    mask: NDArray | None = None
    mask_test: NDArray | None = None
    vocabulary: int | None = None
    matrix_shape: tuple[int, int] | None = None
    truth: NDArray | None = None
    microbatch: int | None = None

    def __post_init__(self) -> None:
        """Check that the arrays agree with each other and with the task."""
        if self.task not in TASKS:
            raise UserError(f"task must be one of {', '.join(TASKS)}; got {self.task!r}")
        if (self.x_test is None) != (self.y_test is None):
            raise UserError(f"data {self.name}: give both x_test and y_test, or neither")
        self._check_split(self.x, self.y, self.mask, "")
        if self.x_test is not None and self.y_test is not None:
            self._check_split(self.x_test, self.y_test, self.mask_test, "_test")
        if self.truth is not None and self.truth.shape != self.matrix_shape:
            raise UserError(
                f"data {self.name}: truth must have the shape {self.matrix_shape}, got {self.truth.shape}"
            )
        if self.microbatch is not None and not is_count(self.microbatch):
            raise UserError(
                f"data.microbatch must be an integer of at least 1 (or null for all at once), "
                f"got {self.microbatch!r}"
            )

    def _check_split(self, x: NDArray, y: NDArray, mask: NDArray | None, suffix: str) -> None:
        names = f"x{suffix}", f"y{suffix}"
        if x.ndim < 1 or y.ndim < 1 or len(x) == 0 or len(x) != len(y):
            raise UserError(
                f"data {self.name}: {names[0]} and {names[1]} need the same number of examples, at least "
                f"one; shapes are {x.shape} and {y.shape}"
            )
        if x.shape[1:] != self.input_shape:
            raise UserError(
                f"data {self.name}: each example of {names[0]} must have shape {self.input_shape}, "
                f"but the array is {x.shape}"
            )
        shapes: dict[str, tuple[int, ...]] = {
            "classification": (len(x),),
            "binary": (len(x),),
            "regression": (len(x), self.num_outputs),
            "tokens": (len(x), *self.input_shape),
            "entries": (len(x), self.num_outputs),
        }
        if y.shape != shapes[self.task]:
            raise UserError(
                f"data {self.name}: {names[1]} of a {self.task} task must have shape {shapes[self.task]}, "
                f"got {y.shape}"
            )
        integers = self.task in ("classification", "tokens")
        if integers and (y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= self.num_outputs):
            raise UserError(
                f"data {self.name}: {names[1]} of a {self.task} task must hold integers 0 to "
                f"{self.num_outputs - 1}, got {y.dtype} from {y.min()} to {y.max()}"
            )
        if not integers and not np.isfinite(y).all():
            raise UserError(f"data {self.name}: {names[1]} holds values that are not finite")
        if self.task == "binary" and not np.isin(y, (-1.0, 1.0)).all():
            raise UserError(f"data {self.name}: {names[1]} of a binary task must hold -1 and +1 only")
        if self.task != "tokens" and not np.isfinite(x).all():
            raise UserError(f"data {self.name}: {names[0]} holds values that are not finite")
        if self.task == "tokens" and (
            self.vocabulary is None or x.dtype.kind not in "iu" or x.min() < 0 or x.max() >= self.vocabulary
        ):
            raise UserError(
                f"data {self.name}: {names[0]} of a tokens task must hold integers below the vocabulary "
                f"({self.vocabulary}), got {x.dtype} from {x.min()} to {x.max()}"
            )
        if self.task == "entries":
            self._check_entries(x, names[0])
        if mask is not None and (mask.shape != y.shape or mask.dtype != bool or not mask.any()):
            raise UserError(
                f"data {self.name}: mask{suffix} must be bool of shape {y.shape} with at least one True, "
                f"got {mask.dtype} {mask.shape}"
            )

    def _check_entries(self, x: NDArray, name: str) -> None:
        if self.matrix_shape is None or self.num_outputs != 1:
            raise UserError(f"data {self.name}: an entries task needs a matrix_shape, and one output")
        if x.dtype.kind not in "iu":
            if self.input_shape != self.matrix_shape:
                raise UserError(
                    f"data {self.name}: each example of {name} must be a pair of integers, or a matrix of shape "
                    f"{self.matrix_shape}, got {self.input_shape}"
                )
        elif self.input_shape != (2,) or x.min() < 0 or (x >= self.matrix_shape).any():
            rows, columns = self.matrix_shape
            raise UserError(
                f"data {self.name}: {name} of an entries task must hold pairs of a row below {rows} and a column below "
                f"{columns}, got shape {x.shape} from {x.min()} to {x.max()}"
            )

    def __len__(self) -> int:
        """Number of training examples."""
        return len(self.x)
