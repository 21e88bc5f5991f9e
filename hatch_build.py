"""The metadata that depends on where the sources are published: links of the README, and the project's addresses.

A README's links lead to files beside it, which an index page does not have. The environment variable
``REPOSITORY_URL``, which the workflow of a release sets, says where they are; where it is not set the page has the
links' words without the links.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)]+)\)")


class Published(MetadataHookInterface):
    """Fills in ``readme`` and ``urls``."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add what the project's table leaves to be found out."""
        repository = os.environ.get("REPOSITORY_URL", "").rstrip("/")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        if repository:
            address = f"{repository}/{{}}/v{metadata['version']}"
            metadata["urls"] = {
                "Repository": repository,
                "Documentation": f"{address.format('tree')}/docs",
                "Changelog": f"{address.format('blob')}/CHANGELOG.md",
                "Issues": f"{repository}/issues",
            }
            text = absolute(text, address)
        else:
            metadata["urls"] = {}
            text = without_links(text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def absolute(text: str, address: str) -> str:
    """Give every link to a file beside the README the address of that file, and every picture that of its bytes."""

    def replaced(found: re.Match[str]) -> str:
        mark, words, path = found.groups()
        return f"{mark}[{words}]({address.format('raw' if mark else 'blob')}/{path})"

    return _LINK.sub(replaced, text)


def without_links(text: str) -> str:
    """Leave out pictures with their captions, and of links to files beside the README all but the words."""
    text = re.sub(
        r"^!\[[^\]]*\]\((?![a-z]+:)[^)]+\)\n\n\*.*?\*\n\n", "", text, flags=re.MULTILINE | re.DOTALL
    )
    return _LINK.sub(r"\2", text)
