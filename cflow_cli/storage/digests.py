"""Digests: how a file is known to be what was written. SHA-256, so that ``sha256sum`` says the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cflow_cli.errors import UserError
from cflow_cli.storage.files import write_text

# In a JSON file, the digest of everything else in it.
KEY = "sha256"
_BLOCK = 1 << 20


def of_text(text: str) -> str:
    """Digest of a text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def of_file(path: Path, size: int | None = None) -> str:
    """Digest of a file, or of its first ``size`` bytes; a block at a time, however large it is."""
    digest, left = hashlib.sha256(), path.stat().st_size if size is None else size
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(_BLOCK, left))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def sealed(content: Mapping[str, Any]) -> str:
    """JSON that carries the digest of its content."""
    content = {key: value for key, value in content.items() if key != KEY}
    return json.dumps({**content, KEY: _of_content(content)}, indent=2, ensure_ascii=False) + "\n"


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that carries the digest of its content, complete or not at all."""
    write_text(path, sealed(content))


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a JSON file; one without a digest, written by hand, counts as whole.

    Raises
    ------
    FileNotFoundError
        When it is not there.
    UserError
        When it cannot be read, or its digest is not that of its content; the sentence names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    # Brackets in brackets end the parser in its own way.
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} is damaged: it holds {type(content).__name__} where there must be names and values"
        )
    digest = content.pop(KEY, None)
    if digest is not None and digest != _of_content(content):
        raise UserError(f"{path} is damaged: it was changed after it was written")
    return content


def _of_content(content: Mapping[str, Any]) -> str:
    # Once through JSON, which makes texts of all keys: as it will be read.
    return of_text(json.dumps(json.loads(json.dumps(content)), sort_keys=True))
