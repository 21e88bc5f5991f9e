"""Ratios of two measurements: ``python -m benchmarks.compare before.json after.json``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cflow_cli.report.tables import markdown

FIGURES = (
    "seconds",
    "in_gradients",
    "hvps",
    "gradient_seconds",
    "hvp",
    "third",
    "peak_bytes",
    "first_progress",
)


def figures(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    """Figures that may be compared, by their path in the file; compile times of each process too."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if isinstance(value, dict):
            yield from figures(value, (*path, key))
        elif isinstance(value, (int, float)) and (key in FIGURES or path[-1:] == ("compile_seconds",)):
            yield " ".join((*path, key)).replace("processes ", ""), float(value)


def main(argv: list[str] | None = None) -> int:
    """Print a row per figure that both files have: before, after, after divided by before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, help="a bench.json")
    parser.add_argument("after", type=Path, help="another")
    args = parser.parse_args(argv)
    files = []
    for path in (args.before, args.after):
        try:
            files.append(dict(figures(json.loads(path.read_text(encoding="utf-8")))))
        except (OSError, ValueError) as error:
            print(f"error: cannot read {path}: {error}; give two files of benchmarks.bench", file=sys.stderr)
            return 2
    before, after = files
    rows = [
        [name, old, after[name], after[name] / old] for name, old in before.items() if old and name in after
    ]
    if not rows:
        print("error: the two files have no figure in common", file=sys.stderr)
        return 2
    print(markdown(["figure", "before", "after", "ratio"], rows), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
