"""The picture of the package's rooms: `python docs/architecture.py [FILE]` draws docs/assets/architecture.svg or FILE.

Rooms, modules and imports are read from the sources; the layers are those that `make lint` checks (pyproject.toml).
An import against the layers is drawn in red, on the left, and ends the program with an error.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "cflow_cli"
PICTURE = ROOT / "docs" / "assets" / "architecture.svg"


class Import(NamedTuple):
    """An import of one module of the package by another."""

    source: str
    target: str
    line: int
    late: bool
    """Whether it stands inside a function."""


class Room(NamedTuple):
    """A sub-package, or a module at the package's root."""

    name: str
    modules: int
    lines: int


def modules() -> dict[str, Path]:
    """The package's modules by name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((ROOT / PACKAGE).rglob("*.py"))
    }


def statements(tree: ast.AST, late: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Imports that are carried out, and whether each stands in a function; those for type checkers are not."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, late
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from statements(ast.Module([other], []), late)
        else:
            yield from statements(node, late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def imports() -> list[Import]:
    """Every import of one module of the package by another."""
    known = modules()
    found = []
    for source, path in known.items():
        for node, late in statements(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [name if name in known else str(node.module) for name in inner]
            found += [
                Import(source, target, node.lineno, late)
                for target in dict.fromkeys(targets)
                if target in known
            ]
    return found


def room_of(module: str) -> str:
    """The room of a module; nothing for the package itself."""
    return module.removeprefix(PACKAGE).removeprefix(".").partition(".")[0]


def layers() -> list[list[Room]]:
    """The rooms there are, layer by layer from the top, as the contract in pyproject.toml has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    contract = next(c for c in settings["contracts"] if c["type"] == "layers")
    paths: dict[str, list[Path]] = {}
    for module, path in modules().items():
        paths.setdefault(room_of(module), []).append(path)
    lines = {
        room: sum(len(path.read_text(encoding="utf-8").splitlines()) for path in own)
        for room, own in paths.items()
    }
    listed = (re.findall(r"\w+", layer) for layer in contract["layers"])
    there = (
        [Room(name, len(paths[name]), lines[name]) for name in names if name in paths] for names in listed
    )
    return [layer for layer in there if layer]


def arrows() -> Counter[tuple[str, str]]:
    """How many imports lead from one room to another."""
    pairs = ((room_of(found.source), room_of(found.target)) for found in imports())
    return Counter((source, target) for source, target in pairs if source and target and source != target)


def digest() -> str:
    """Changes when a room or an arrow comes or goes; not with every line."""
    text = repr(([[room.name for room in layer] for layer in layers()], sorted(arrows())))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def against() -> list[tuple[str, str]]:
    """Arrows that do not lead to a layer below."""
    depth = {room.name: i for i, layer in enumerate(layers()) for room in layer}
    return sorted(pair for pair in arrows() if depth[pair[0]] >= depth[pair[1]])


BOWS, BOX, HEIGHT, GAP, LAYER_GAP, TOP = 240, 168, 42, 5, 16, 22
COLOURS = ("#4e79a7", "#e08a2e", "#59a14f", "#b07aa1", "#2a9d9d", "#c9a227", "#9c755f", "#d37295")
WRONG = "#e5484d"
STYLE = """
  text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; fill: #1f2328 }
  .paper { fill: #ffffff } .room { fill: #eef1f5; stroke: #9aa4b0 }
  .name { font-size: 15px; font-weight: 600 } .size { font-size: 11.5px; fill: #59636e }
  path:not(.tip) { fill: none } .ground { opacity: .35 } .note { font-size: 13px; font-weight: 600; fill: #e5484d }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6e9ee } .paper { fill: #1b1e26 } .room { fill: #2b303b; stroke: #5c6675 } .size { fill: #a9b2bf }
  }
"""


def draw() -> str:
    """The picture as SVG."""
    storeys, wrong = layers(), against()
    left = 90 if wrong else 20
    width = left + BOX + BOWS
    tops: dict[str, float] = {}
    y = float(TOP)
    for layer in storeys:
        for room in layer:
            tops[room.name] = y
            y += HEIGHT + GAP
        y += LAYER_GAP - GAP
    height = y - LAYER_GAP + TOP
    boxes = [_box(room, left, tops[room.name]) for layer in storeys for room in layer]
    note = f'<text class="note" x="{left}" y="15">{len(wrong)} against the layers</text>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" width="{width}" '
            f'height="{height:g}" role="img">',
            f"<!-- made by docs/architecture.py; rooms and arrows {digest()} -->",
            "<title>The rooms of the package and the imports between them</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="paper" width="{width}" height="{height:g}" rx="8"/>',
            *_arrows(tops, left, {room.name for room in storeys[-1]}),
            *boxes,
            *([note] if wrong else []),
            "</svg>",
            "",
        ]
    )


def _box(room: Room, left: float, top: float) -> str:
    number = f"{room.modules} modules, " if room.modules > 1 else ""
    lines = round(room.lines, -2) if room.lines >= 100 else round(room.lines, -1)
    return (
        f'<rect class="room" x="{left}" y="{top:g}" width="{BOX}" height="{HEIGHT}" rx="6"/>'
        f'<text class="name" x="{left + 11}" y="{top + 18:g}">{room.name}</text>'
        f'<text class="size" x="{left + 11}" y="{top + 34:g}">{number}{lines:,} lines</text>'
    )


def _arrows(tops: dict[str, float], left: float, ground: set[str]) -> list[str]:
    """Bows on the right, downwards; those against the layers on the left."""
    found, wrong = arrows(), against()
    order = {room: i for i, room in enumerate(tops)}
    # Long arrows lie behind short ones; at a box, the ends of nested bows are nested.
    pairs = sorted(found, key=lambda pair: abs(order[pair[0]] - order[pair[1]]), reverse=True)
    drawn = []
    for source, target in pairs:
        leaving = [b for a, b in pairs if a == source]
        arriving = [a for a, b in pairs if b == target]
        start = tops[source] + HEIGHT * (0.52 + 0.4 * _place(target, leaving))
        end = tops[target] + HEIGHT * (0.48 - 0.36 * _place(source, arriving))
        astray = (source, target) in wrong
        kind = "wrong" if astray else "ground" if target in ground else "arrow"
        drawn.append(
            f'<g class="{kind}"><title>{source} to {target}: {found[source, target]}</title>'
            + _bow(
                *(left if astray else left + BOX, start, end, found[source, target]),
                WRONG if astray else COLOURS[order[source] % len(COLOURS)],
                -1 if astray else 1,
            )
            + "</g>"
        )
    return drawn


def _place(name: str, names: list[str]) -> float:
    return names.index(name) / (len(names) - 1) if len(names) > 1 else 0.5


def _bow(x: float, start: float, end: float, number: int, colour: str, side: int) -> str:
    distance = abs(end - start)
    out = x + side * (24 + (0.07 if side < 0 else 0.27) * distance)
    width = 0.7 + 0.75 * number**0.5
    tip = 3.5 + 0.8 * width
    return (
        f'<path stroke="{colour}" stroke-width="{width:.2f}" '
        f'd="M{x} {start:.1f}C{out:.1f} {start:.1f} {out:.1f} {end:.1f} {x + side * tip:.1f} {end:.1f}"/>'
        f'<path class="tip" fill="{colour}" '
        f'd="M{x} {end:.1f}l{side * 1.6 * tip:.1f} {0.7 * tip:.1f}v{-1.4 * tip:.1f}z"/>'
    )


def main() -> int:
    """Draw the picture; 1 if an arrow is against the layers."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    file.write_text(draw(), encoding="utf-8")
    print(file)
    for source, target in against():
        print(f"AGAINST THE LAYERS: {source} imports {target}", file=sys.stderr)
        for found in imports():
            if (room_of(found.source), room_of(found.target)) == (source, target):
                print(f"  {found.source}, line {found.line}: {found.target}", file=sys.stderr)
    return 1 if against() else 0


if __name__ == "__main__":
    sys.exit(main())
