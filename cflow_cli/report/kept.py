"""What was worked out of a run is kept beside it, for as long as its files and this code are what they were.

``.summary.json`` and ``.curves.json`` in a run folder may be removed at any time; a folder that cannot be written has
none. A run that goes on is worked out anew each time.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from pathlib import Path
from typing import Any

from cflow_cli import __version__, records
from cflow_cli.errors import UserError
from cflow_cli.storage import digests, manifests, parts, read_config


def stamp(folder: Path) -> str | None:
    """Digest of all that a summary follows from; None for a run that goes on, or whose files cannot be vouched for.

    Of the tables it has the digests in the manifest, and looks only whether the parts are there at their full length:
    what is kept was worked out when they were whole.
    """
    try:
        manifest = manifests.read(folder)
        listed = parts.listed(manifest)
        if manifest["status"] == "running" or listed is None or manifest.get("config_sha256") is None:
            return None
        read_config(folder, manifest)
        if any((folder / name).stat().st_size != part.bytes for name, part in listed.items()):
            return None
    except (UserError, OSError):
        return None
    return digests.of_text(json.dumps([_code(), manifest], sort_keys=True))


def load(folder: Path, what: str, mark: str | None) -> Any:
    """What was kept under a stamp; None where that is nothing, or something else."""
    if mark is None:
        return None
    try:
        found = digests.read_sealed(folder / f".{what}.json")
    except (UserError, OSError):
        return None
    return found.get("content") if found.get("stamp") == mark else None


def save(folder: Path, what: str, mark: str | None, content: Any) -> None:
    """Keep something that JSON can hold under a stamp, if the folder can be written."""
    if mark is None or content is None:
        return
    path = folder / f".{what}.json"
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    # Nothing is lost with it, so nobody waits for the disk.
    with contextlib.suppress(OSError, TypeError, ValueError):
        temporary.write_text(digests.sealed({"stamp": mark, "content": content}), encoding="utf-8")
        temporary.replace(path)


@functools.cache
def _code() -> str:
    """The version, and the digest of the modules that say what the numbers are."""
    own = [*sorted(Path(__file__).parent.glob("*.py")), Path(records.__file__)]
    return digests.of_text(__version__ + "".join(digests.of_file(path) for path in own))
