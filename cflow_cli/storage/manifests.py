"""The manifest: one JSON file that says what a run is, how far it got and how it ended."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cflow_cli.errors import UserError
from cflow_cli.storage import digests

NAME = "manifest.json"
STATUSES = ("running", "done", "interrupted", "failed")
_PACKAGES = ("cflow-cli", "jax", "jaxlib", "optax", "equinox", "numpy", "hydra-core", "pyarrow")


def environment() -> dict[str, Any]:
    """Describe where and how this process runs: versions, git commit, command line, host.

    Returns
    -------
    dict
        Ready for a manifest. ``git_commit`` is the checkout the code was imported from, with
        ``+changes`` where tracked files differ from it, and None outside a checkout.
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "git_commit": _git_commit(),
        "command_line": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "working_directory": str(Path.cwd()),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def write(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest of a run folder in one step."""
    digests.write_sealed(folder / NAME, plain(manifest))


def read(folder: Path) -> dict[str, Any]:
    """Read the manifest of a run folder.

    Raises
    ------
    UserError
        When it is not there, damaged, or not a manifest.
    """
    path = folder / NAME
    try:
        manifest = digests.read_sealed(path)
    except FileNotFoundError:
        if is_run(folder):
            raise UserError(f"{path} is missing; to make it again: cflow resume {folder}") from None
        raise UserError(f"{folder} is not a run: it has no {NAME}") from None
    if manifest.get("status") not in STATUSES:
        raise UserError(f"{path} is not the manifest of a run: its status is none of {', '.join(STATUSES)}")
    for key, kind in _TYPES.items():
        value = manifest.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
            raise UserError(
                f"{path} is damaged: its {key} is {str(value)[:50]!r}, which is no {_WORDS[kind]}"
            )
    return manifest


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, or what is left of one whose manifest is gone."""
    return (folder / NAME).is_file() or any((folder / "metrics").glob("part-*.parquet"))


_NUMBER = int | float
_WORDS: dict[Any, str] = {int: "whole number", _NUMBER: "number", str: "text", dict: "mapping", list: "list"}
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("step", "steps", "warm_start", "seed", "pid", "num_parameters"), int),
    **dict.fromkeys(("wall_seconds", "storage_seconds", "lr"), _NUMBER),
    **dict.fromkeys(
        ("host", "started", "updated", "finished", "reason", "command_line", "dtype", "device"), str
    ),
    **dict.fromkeys(("choices", "counts", "processes", "versions", "parts", "files"), dict),
    **dict.fromkeys(("overrides", "resumed", "layers", "config_sha256"), list),
}


def process_is_gone(manifest: Mapping[str, Any]) -> bool:
    """Whether a run that calls itself running was killed: its process is not on this host any more."""
    pid = manifest.get("pid")
    if manifest["status"] != "running" or manifest.get("host") != socket.gethostname() or not pid:
        return False
    return not is_alive(int(pid))


def is_alive(pid: int) -> bool:
    """Whether a process is on this host; one of another user counts, which may not be signalled."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def plain(value: Any) -> Any:
    """Make a value JSON can hold without NaN, which is not JSON: numpy scalars, paths, non-finite floats."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return str(value)


def _git_commit() -> str | None:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
