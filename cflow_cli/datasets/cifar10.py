"""CIFAR-10 images (Krizhevsky, 2009), from either of its published layouts."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from cflow_cli.datasets.dataset import Dataset, check_test_size
from cflow_cli.datasets.select import first_per_class, parse_classes, targets
from cflow_cli.errors import UserError

PYTHON_FOLDER = "cifar-10-batches-py"
BINARY_FOLDER = "cifar-10-batches-bin"
TRAINING = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = "test_batch"
PIXELS = 3 * 32 * 32
# Mean and standard deviation of each channel over the 50,000 training images: fixed, so that an image is the
# same input whatever subset it is in, as in the paper.
MEAN = np.array([0.49139968, 0.48215827, 0.44653124], np.float32) * 255
DEVIATION = np.array([0.24703233, 0.24348505, 0.26158768], np.float32) * 255


def cache_folder() -> Path:
    """Folder that ``cflow data fetch`` fills, within the user's cache folder (on Linux ``$XDG_CACHE_HOME``)."""
    return user_cache_path("cflow", appauthor=False) / "data"


def find_folder(root: str | None = None) -> Path:
    """Folder with the batches: looked for in ``root``, then ``$CFLOW_DATA``, then the cache folder.

    Each may be the folder of the batches itself or one that contains it under its published name.

    Raises
    ------
    UserError
        If nothing is there; an explicit ``root`` is not passed over.
    """
    if root is not None:
        places = [Path(root).expanduser()]
    else:
        places = [Path(os.environ["CFLOW_DATA"]).expanduser()] if os.environ.get("CFLOW_DATA") else []
        places.append(cache_folder())
    for place in places:
        for folder in (place, place / PYTHON_FOLDER, place / BINARY_FOLDER):
            if _layout(folder) is not None:
                return folder
    raise UserError(
        f"no CIFAR-10 batches in {' or '.join(map(str, places))}: run `cflow data fetch cifar10`, "
        f"or point data.root (or $CFLOW_DATA) at a folder that holds {PYTHON_FOLDER} or {BINARY_FOLDER}"
    )


def _layout(folder: Path) -> str | None:
    """Which published layout a folder has: ``python``, ``binary``, or None."""
    if (folder / TRAINING[0]).is_file():
        return "python"
    if (folder / f"{TRAINING[0]}.bin").is_file():
        return "binary"
    return None


class _ArrayUnpickler(pickle.Unpickler):
    """Builds dicts, lists, strings, numbers and NumPy arrays, and nothing else.

    A pickle can otherwise run any code; every other global in it is refused.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Allow the few names that an array of numbers needs."""
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return _plain_dtype
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _empty_array
        if (module, name) == ("_codecs", "encode"):
            return _to_bytes  # how Python 3 writes bytes for older protocols
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR-10 batch needs")


def _to_bytes(text: str, *_: Any) -> bytes:
    """Bytes that a pickle holds as text."""
    return text.encode("latin1")


def _plain_dtype(code: Any, *_: Any) -> np.dtype:
    """``numpy.dtype`` for numbers only: object arrays could hold anything."""
    dtype = np.dtype(code)
    if dtype.hasobject or dtype.kind not in "iufb":
        raise pickle.UnpicklingError(f"it holds an array of {dtype}")
    return dtype


def _empty_array(*_: Any) -> NDArray:
    """The empty array whose state a pickle then sets."""
    return np.ndarray.__new__(np.ndarray, (0,), np.uint8)


def _read_python(path: Path) -> tuple[NDArray, NDArray]:
    try:
        with path.open("rb") as file:
            batch = _ArrayUnpickler(file, encoding="latin1").load()
        images = np.asarray(batch["data"])
        labels = np.asarray(batch["labels"])
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(f"{path} is not a CIFAR-10 batch of the python version: {error}") from None
    return images, labels


def _read_binary(path: Path) -> tuple[NDArray, NDArray]:
    raw = np.fromfile(path, dtype=np.uint8)
    if raw.size == 0 or raw.size % (PIXELS + 1):
        raise UserError(
            f"{path} is not a CIFAR-10 batch of the binary version: "
            f"{raw.size} bytes is no multiple of {PIXELS + 1}"
        )
    records = raw.reshape(-1, PIXELS + 1)
    return records[:, 1:], records[:, 0].astype(np.int64)


def read_batches(folder: Path, names: tuple[str, ...]) -> tuple[NDArray, NDArray]:
    """Images ``(n, 32, 32, 3)`` uint8 and labels ``(n,)`` of the named batches, in file order.

    Raises
    ------
    UserError
        If a batch is missing or damaged.
    """
    python = _layout(folder) == "python"
    images, labels = [], []
    for name in names:
        path = folder / (name if python else f"{name}.bin")
        try:
            x, y = _read_python(path) if python else _read_binary(path)
        except OSError as error:
            raise UserError(f"cannot read the CIFAR-10 batch {path}: {error.strerror}") from None
        if x.dtype != np.uint8 or x.ndim != 2 or x.shape != (len(y), PIXELS) or y.ndim != 1:
            raise UserError(f"{path} is not a CIFAR-10 batch: images {x.dtype} {x.shape}, labels {y.shape}")
        if y.dtype.kind not in "iu" or y.min() < 0 or y.max() > 9:
            raise UserError(f"{path} is not a CIFAR-10 batch: labels are not integers 0 to 9")
        images.append(x)
        labels.append(y)
    # Stored channel by channel; models take channels last.
    return np.concatenate(images).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.concatenate(labels)


def normalise(images: NDArray, window: int) -> NDArray:
    """Normalise ``(n, h, w, 3)`` uint8 images per channel and take means over ``window × window`` squares."""
    n, h, w, c = images.shape
    tiles = images.reshape(n, h // window, window, w // window, window, c)
    return (tiles.mean(axis=(2, 4), dtype=np.float32) - MEAN) / DEVIATION


def cifar10(
    n: int = 1000,
    classes: int | str = 4,
    n_test: int | None = None,
    pool: int = 1,
    skip: int = 0,
    root: str | None = None,
    microbatch: int | None = None,
) -> Dataset:
    """First ``n/classes`` training images of each of the first classes, normalised per channel.

    Parameters
    ----------
    n
        Number of training images; 1,000 of four classes is the paper's "CIFAR-4".
    classes
        2 to 10, or ``binary`` for airplanes (−1) against automobiles (+1).
    n_test
        About how many test images (rounded down to a multiple of the classes), chosen the same way from
        the test batch; null for none.
    pool
        Window of mean-pooling after normalising, a divisor of 32: 4 makes 8×8 images.
    skip
        Training images of each class that are left out first: with ``n/classes`` more, a disjoint set.
    root
        Folder of the batches or one above it; null looks in ``$CFLOW_DATA`` and the cache folder.
    microbatch
        See ``Dataset``.

    Raises
    ------
    UserError
        If the files are missing or damaged, or have too few images.
    """
    check_test_size(n_test)
    count, binary = parse_classes(classes, 10, "CIFAR-10")
    if not isinstance(pool, int) or pool < 1 or 32 % pool:
        raise UserError(f"data.pool must be one of 1, 2, 4, 8, 16, 32; got {pool!r}")
    folder = find_folder(root)
    images, labels = read_batches(folder, TRAINING)
    chosen = first_per_class(labels, n, count, str(folder), skip=skip)
    x_test = y_test = None
    if n_test:
        n_test = max(n_test // count, 1) * count
        test_images, test_labels = read_batches(folder, (TEST,))
        chosen_test = first_per_class(test_labels, n_test, count, f"the test batch in {folder}", "n_test")
        x_test = normalise(test_images[chosen_test], pool)
        y_test = targets(test_labels[chosen_test], binary)
    x = normalise(images[chosen], pool)
    return Dataset(
        x=x,
        y=targets(labels[chosen], binary),
        task="binary" if binary else "classification",
        input_shape=x.shape[1:],
        num_outputs=1 if binary else count,
        name="cifar10",
        x_test=x_test,
        y_test=y_test,
        microbatch=microbatch,
    )
