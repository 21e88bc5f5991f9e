"""Next-character prediction on the user's own text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cflow_cli.datasets.dataset import Dataset, check_test_size
from cflow_cli.errors import UserError

# Bytes that are decoded at a time, so that a file of gigabytes is never in memory.
_PIECE = 1 << 16
# A character that no text has; binary files are full of it.
_NUL = "\0"


def text(
    path: str | None = None,
    length: int = 32,
    n: int = 200,
    n_test: int | None = None,
    microbatch: int | None = None,
) -> Dataset:
    """Windows of a text file, one after the other: inputs are their characters, targets the characters that follow.

    Each of the first n windows takes ``length`` characters, and its targets are those one further on; the test windows
    are the next ones. The vocabulary is made of the characters of all of them, in the order of their code points.
    Nothing behind them is read.

    Parameters
    ----------
    path
        The file, in UTF-8.
    length
        Characters of a window, at least 1.
    n, n_test
        Number of training and of test windows; null for no test windows.
    microbatch
        See ``Dataset``.

    Raises
    ------
    UserError
        If a size is not allowed, or the file cannot be read, is no text, or is too short.
    """
    if path is None:
        raise UserError("data=text needs data.path, the text file: data=text data.path=book.txt")
    check_test_size(n_test)
    for option, value in (("n", n), ("length", length)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"data.{option} must be an integer of at least 1, got {value!r}")
    windows = n + (n_test or 0)
    # The target of the last character is one more.
    characters = _read(Path(str(path)).expanduser(), windows * length + 1)
    if len(characters) <= windows * length:
        possible = (len(characters) - 1) // length
        hint = (
            f"at most {possible} fit" if possible > 0 else f"data.length may be {len(characters) - 1} at most"
        )
        raise UserError(
            f"data.path={path} has {len(characters)} characters, too few for {windows} windows of "
            f"data.length={length}; {hint}"
        )
    letters, tokens = np.unique(characters, return_inverse=True)
    if len(letters) < 2:
        raise UserError(f"data.path={path} repeats a single character, so there is nothing to predict")
    tokens = tokens.astype(np.int32)
    x, y = tokens[:-1].reshape(windows, length), tokens[1:].reshape(windows, length)
    return Dataset(
        x=x[:n],
        y=y[:n],
        task="tokens",
        input_shape=(length,),
        num_outputs=len(letters),
        name=f"{Path(str(path)).name} ({len(letters)} characters)",
        x_test=x[n:] if n_test else None,
        y_test=y[n:] if n_test else None,
        vocabulary=len(letters),
        microbatch=microbatch,
    )


def _read(path: Path, count: int) -> NDArray[np.uint32]:
    """The first characters of a text file as code points, fewer where it ends; every line ends with a newline only."""
    found, missing = [], count
    try:
        with path.open(encoding="utf-8-sig") as file:
            while missing and (piece := file.read(min(missing, _PIECE))):
                found.append(piece)
                missing -= len(piece)
    except FileNotFoundError:
        raise UserError(f"data.path={path} does not exist") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"data.path={path} is no text in UTF-8 ({error.reason}); convert it, as iconv -t utf-8 does"
        ) from None
    except OSError as error:
        raise UserError(f"data.path={path} cannot be read: {error.strerror}") from None
    whole = "".join(found)
    if not whole:
        raise UserError(f"data.path={path} is empty")
    if _NUL in whole:
        raise UserError(f"data.path={path} is no text: it holds NUL characters, as binary files do")
    return np.frombuffer(whole.encode("utf-32-le"), dtype="<u4")
