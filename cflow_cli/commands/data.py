"""``cflow data``: download a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cflow_cli.commands.parsing import Parser
from cflow_cli.datasets.cifar10 import cache_folder
from cflow_cli.datasets.fetch import ARCHIVES, Archive, fetch
from cflow_cli.errors import UserError


def main(argv: Sequence[str]) -> int:
    """Run ``cflow data``.

    Raises
    ------
    UserError
        For an action that there is not, or a data set that cannot be fetched.
    """
    if argv[:1] != ["fetch"]:
        if argv and argv[0] not in ("-h", "--help"):
            raise UserError(
                f"unknown action {argv[0]!r} of cflow data; there is fetch: cflow data fetch cifar10"
            )
        argv = ["fetch", "--help"]
    parser = Parser(prog="cflow data fetch", description="Download a data set into the cache folder.")
    parser.add_argument("name", choices=sorted(ARCHIVES), help="data set to download")
    parser.add_argument("--to", type=Path, metavar="DIR", help=f"unpack into DIR instead of {cache_folder()}")
    parser.add_argument("--url", help="download the same archive from elsewhere (its checksum is checked)")
    options = parser.parse_args(argv[1:])
    archive = ARCHIVES[options.name]
    if options.url:
        archive = Archive(options.url, archive.sha256, archive.folder, archive.files)
    folder = fetch(options.name, options.to, archive)
    print(f"{options.name} is in {folder}")
    if options.to is not None:
        print(f"use it with data.root={options.to} or CFLOW_DATA={options.to}")
    return 0
