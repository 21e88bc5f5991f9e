"""Networks of three different initial weights and the paths between each two, as several figures show them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from cflow_cli.figures.connections import FigurePath, Plan
from cflow_cli.figures.drawing import SHADES

SEEDS = (0, 1, 2)
_PRESETS = {"mini": "connectivity_mini", "paper": "connectivity_paper"}


def runs(size: str) -> dict[str, list[str]]:
    """Three runs that differ in their initial weights only."""
    return {f"seed {seed}": [f"experiment={_PRESETS[size]}", f"seed={seed}"] for seed in SEEDS}


def paths(size: str) -> dict[str, Plan]:
    """All curves between each two; the same for every figure, so that they are made once."""
    return between("pair", {"kind": "line,bezier,chain", "steps": 300 if size == "mini" else 2000})


def between(word: str, options: Mapping[str, Any]) -> dict[str, Plan]:
    """Paths between each two, ``word`` 0 to 2."""
    return {f"{word} {a}": (f"seed {a}", f"seed {(a + 1) % len(SEEDS)}", options) for a in SEEDS}


def each(found: Mapping[str, FigurePath], word: str = "pair") -> Iterator[tuple[int, FigurePath, str]]:
    """Number, paths and name of each pair."""
    for number in SEEDS:
        yield number, found[f"{word} {number}"], f"seeds {number} and {(number + 1) % len(SEEDS)}"


def draw_along(axes: Sequence[Axes], number: int, path: FigurePath, kind: str = "line", **look: Any) -> None:
    """Draw the training loss and the test error along a path, in the colour of its pair."""
    loss, accuracy = path.loss(kind), path.loss(kind, "test_accuracy")
    axes[0].plot(loss.index, loss, color=SHADES[number], **look)
    axes[1].plot(accuracy.index, 1 - accuracy, color=SHADES[number], **look)


def label(number: int) -> str:
    """Name of a pair in a legend."""
    return f"seeds {number}, {(number + 1) % len(SEEDS)}"
