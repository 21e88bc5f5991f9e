"""Download of data sets into the cache folder, only ever when asked for."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from cflow_cli.datasets.cifar10 import PYTHON_FOLDER, TEST, TRAINING, cache_folder
from cflow_cli.errors import UserError

BLOCK = 1 << 18
TIMEOUT = 30.0


@dataclass(frozen=True)
class Archive:
    """A file to download and what must be in it.

    Parameters
    ----------
    url
        Where it is.
    sha256
        Its checksum.
    folder
        The folder it unpacks to.
    files
        Files that must then be there.
    """

    url: str
    sha256: str
    folder: str
    files: tuple[str, ...]


ARCHIVES = {
    "cifar10": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        folder=PYTHON_FOLDER,
        files=(*TRAINING, TEST),
    )
}


class _Progress:
    """One line rewritten on a terminal; a line per tenth elsewhere."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name = name
        self.total = total
        self.shown = -1

    def show(self, done: int) -> None:
        """Report ``done`` bytes where that is news."""
        terminal = sys.stderr.isatty()
        step = int(done / self.total * (100 if terminal else 10)) if self.total else done // (10 << 20)
        if step == self.shown:
            return
        self.shown = step
        amount = f"{done / 1e6:.0f} MB" + (f" of {self.total / 1e6:.0f} MB" if self.total else "")
        print(f"{self.name}: {amount}", end="\r" if terminal else "\n", file=sys.stderr, flush=True)


def download(url: str, part: Path) -> None:
    """Download ``url`` to ``part``, going on where an earlier attempt stopped.

    Raises
    ------
    UserError
        If the server cannot be reached or the connection breaks; what arrived stays in ``part``.
    """
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    done = have
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            # A server that ignores the range sends everything again.
            resumed = have > 0 and getattr(response, "status", None) == HTTPStatus.PARTIAL_CONTENT
            done = have if resumed else 0
            length = response.headers.get("Content-Length")
            total = done + int(length) if length else None
            progress = _Progress(url.rsplit("/", 1)[-1], total)
            with part.open("ab" if resumed else "wb") as file:
                while block := response.read(BLOCK):
                    file.write(block)
                    done += len(block)
                    progress.show(done)
            if sys.stderr.isatty():
                print(file=sys.stderr)
        if total is not None and done < total:
            raise UserError(
                f"the connection to {url} broke after {done / 1e6:.1f} of {total / 1e6:.1f} MB; run the same "
                "command again to go on from there"
            )
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is left to send: the checksum decides
        raise UserError(f"{url} answers {error.code} {error.reason}; try later, or another --url") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"cannot download {url} ({reason}): without a connection, copy the data set here from elsewhere "
            "and point data.root or $CFLOW_DATA at its folder"
        ) from None


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(name: str, to: Path | None = None, archive: Archive | None = None) -> Path:
    """Download, check and unpack a data set, unless it is there already.

    Parameters
    ----------
    name
        One of ``ARCHIVES``.
    to
        Folder to unpack into; the cache folder when None.
    archive
        Used instead of the published one.

    Returns
    -------
    Path
        The folder with the data.

    Raises
    ------
    UserError
        If it cannot be downloaded or is not what it should be. Nothing half-unpacked is left behind.
    """
    archive = ARCHIVES[name] if archive is None else archive
    to = cache_folder() if to is None else to
    folder = to / archive.folder
    if all((folder / file).is_file() for file in archive.files):
        return folder
    part = to / (archive.url.rsplit("/", 1)[-1] + ".part")
    try:
        to.mkdir(parents=True, exist_ok=True)
        download(archive.url, part)
        if _checksum(part) != archive.sha256:
            part.unlink()
            raise UserError(
                f"{archive.url} is not the published archive (its SHA-256 differs) and was deleted; run again"
            )
        with tempfile.TemporaryDirectory(dir=to, prefix=".unpacking-") as unpacking:
            inside = Path(unpacking) / archive.folder
            inside.mkdir()
            with tarfile.open(part) as tar:
                for file in archive.files:
                    _unpack(tar, f"{archive.folder}/{file}", inside / file, archive.url)
            if folder.exists():
                shutil.rmtree(folder)
            inside.rename(folder)
        part.unlink()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(f"cannot unpack {part} into {to}: {error}") from None
    return folder


def _unpack(tar: tarfile.TarFile, name: str, to: Path, url: str) -> None:
    """Write one file of an archive; nothing else in it, links and paths that lead out among them, is looked at."""
    try:
        member = tar.getmember(name)
    except KeyError:
        raise UserError(f"{url} lacks {name}") from None
    content = tar.extractfile(member) if member.isfile() else None
    if content is None:
        raise UserError(f"{url} holds no plain file {name}")
    with content, to.open("wb") as file:
        shutil.copyfileobj(content, file)
