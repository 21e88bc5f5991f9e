"""Files that are complete or absent."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from cflow_cli.errors import UserError


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that it is at any moment its old self, its new self, or absent.

    The content goes to a hidden file in the same folder (one that neither ``*.parquet`` nor
    pyarrow's data sets match), reaches the disk (fsync), and takes its name by a rename.

    Parameters
    ----------
    path
        The file's final name.
    write
        Called with the temporary path; has to leave a complete file there.

    Raises
    ------
    UserError
        When the disk is full or the folder cannot be written; what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)  # noqa: PTH105 - the function whose atomicity is documented
        sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):  # on a read-only disk, even of a file that is not there
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise explain(error, path) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a small text file (UTF-8), complete or not at all."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def walk(path: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Folders at and below a path, through symbolic links too, each once, as :func:`os.walk` gives them.

    Whoever iterates may take names out of the second; hidden folders are left out.
    """
    seen: set[tuple[int, int]] = set()
    for name, inside, names in os.walk(path, followlinks=True):
        folder = Path(name)
        try:
            status = folder.stat()
        except OSError:
            inside.clear()  # removed meanwhile
            continue
        if (status.st_dev, status.st_ino) in seen:
            inside.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        inside[:] = sorted(name for name in inside if name[0] != ".")
        yield folder, inside, names


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a folder for one process; the system lets go of it however the process ends.

    Raises
    ------
    UserError
        When another process holds it, or the folder cannot be written.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise explain(error, path) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder} is being run by another process; wait for it, or end it (cflow list shows it)"
            ) from None
        except OSError:
            pass  # a file system without locks; two runs in one folder are then the user's own care
        yield


def explain(error: OSError, path: Path) -> UserError:
    """Turn an error of the file system into the sentence a user needs."""
    untouched = "everything written before is complete"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "the disk is full" if error.errno == errno.ENOSPC else "the disk quota is used up"
        return UserError(f"cannot write {path}: {what}; {untouched}. Free some space and run again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(
            f"cannot write {path}: the folder is not writable; {untouched}. "
            "Choose another folder: hydra.run.dir=… for a run, hydra.sweep.dir=… for a sweep"
        )
    return UserError(f"cannot write {path}: {error.strerror or error}; {untouched}")


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
