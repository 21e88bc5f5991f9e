"""The paths between two runs: a table of them in numbers, and their picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.ticker import MaxNLocator

from cflow_cli.report import style
from cflow_cli.report.pictures import Picture
from cflow_cli.report.tables import Column, Table
from cflow_cli.storage.files import write_atomically
from cflow_cli.storage.paths import Paths

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"line": "#777777", "bezier": "#0072B2", "chain": "#D55E00", "dropout": "#009E73"}
"""Colour of each kind of path, the same in every picture."""
_LEVELS = 24
# The lighter half of the greys, to whose darkest what lies above the levels belongs.
_LIGHT = colormaps["Greys"].with_extremes(over=colormaps["Greys"](0.5))
# Nearly in the plane: what is drawn of a curve there tells the truth about its loss.
_IN_PLANE = 0.02

_COLUMNS = (
    Column(
        "kind", "path", "text", "line, bezier, chain or dropout; matched after the units were put in order"
    ),
    Column("barrier", "barrier", "number", "largest loss above the chord between the losses of the ends"),
    Column("excess", "excess", "number", "largest loss above the larger one of the ends"),
    Column("bound", "bound", "number", "of a dropout path, largest loss at its corners"),
    Column("min_loss", "min loss", "number", "smallest loss on the path"),
    Column("max_loss", "max loss", "number", "largest loss on the path"),
    Column("max_test_error", "max test error", "percent", "largest test error on the path"),
    Column("distance", "distance", "number", "distance of the ends"),
    Column("length_ratio", "length / distance", "number", "length of the path over that distance"),
    Column("steps", "steps", "count", "steps of Adam of the fit"),
    Column("seconds", "time", "seconds", "time for the path and its losses"),
)


def table(paths: Paths) -> Table:
    """The paths in numbers, a row each; columns that none of them has are left out."""
    found = list(paths.about["paths"].values())
    columns = [column for column in _COLUMNS if any(row.get(column.name) is not None for row in found)]
    rows = [[_cell(row, column) for column in columns] for row in found]
    return Table(columns, rows)


def _cell(row: dict[str, Any], column: Column) -> Any:
    if column.name == "kind":
        return f"{row['kind']}, matched" if row["matched"] else row["kind"]
    return row.get(column.name)


def ends_table(paths: Paths) -> Table:
    """The ends of the paths: process and step of each, loss and test error."""
    headings = ("end", "process", "step", "loss", "test error")
    kinds = ("text", "text", "count", "number", "percent")
    rows = []
    for end, place in zip(paths.about["ends"], (0, -1)):
        there = paths.table.iloc[place]
        error = None if np.isnan(there["test_accuracy"]) else float(1 - there["test_accuracy"])
        rows.append([end["run"], end["process"], end["step"], float(there["loss"]), error])
    return Table([Column(name, name, kind) for name, kind in zip(headings, kinds)], rows)


def save(paths: Paths, path: Path) -> None:
    """Draw :func:`picture` into a file whose ending says the format.

    Raises
    ------
    UserError
        When the file cannot be written.
    """
    content = io.BytesIO()
    with style.figure_style():
        picture(paths).savefig(content, format=path.suffix[1:])

    def write(temporary: Path) -> None:
        temporary.write_bytes(content.getvalue())

    write_atomically(path, write)


def picture(paths: Paths) -> Figure:
    """Loss along the paths, and the plane through the ends and a third point with the paths drawn in it."""
    with style.figure_style():
        figure = Picture(figsize=(2 * style.COLUMN + 0.3, 2.6), layout="constrained")
        along, plane = figure.subplots(1, 2)
        draw_losses(along, paths)
        draw_plane(plane, paths)
    return figure


def draw_losses(ax: Axes, paths: Paths, **look: Any) -> None:
    """Draw the training loss along each path."""
    for kind, rows in paths.table.groupby("kind", sort=False):
        name = f"{kind}, matched" if rows["matched"].iloc[0] else str(kind)
        own: dict[str, Any] = {"color": COLOURS[str(kind)], "label": name}
        ax.plot(rows["t"], rows["loss"], **own | look)
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.lines])
    if values.min() > 0 and values.max() > 30 * values.min():
        ax.set_yscale("log")
    else:
        ax.set_ylim(0)
    ax.set_xlabel("t")
    ax.set_title("training loss along the path")
    ax.legend()


def draw_plane(ax: Axes, paths: Paths) -> None:
    """Draw the loss on the plane with the ends, and each path: dotted where it leaves the plane."""
    arrays = paths.arrays
    x, y, loss = (arrays[f"plane.{name}"] for name in ("x", "y", "loss"))
    with np.errstate(invalid="ignore"):
        shown = np.log10(np.maximum(loss, np.finfo(float).tiny))
    finite = shown[np.isfinite(shown)]
    levels = np.linspace(finite.min(), np.quantile(finite, 0.95) + 1e-6, _LEVELS)
    # Light, so that the curves stand out.
    drawn = ax.contourf(
        x,
        y,
        shown,
        levels=levels,
        cmap=_LIGHT,
        extend="both",
        vmin=levels[0],
        vmax=2 * levels[-1] - levels[0],
    )
    ticks = MaxNLocator(6).tick_values(levels[0], levels[-1])
    inside = ticks[(ticks >= levels[0]) & (ticks <= levels[-1])]  # others would be drawn at the ends
    bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.9, ticks=inside)
    bar.set_label("log₁₀ of the training loss")
    ax.set_xlim(x[0], x[-1])
    ax.set_ylim(y[0], y[-1])
    for kind, about in paths.about["paths"].items():
        points = arrays[f"plane.{kind}"]
        flat = np.linalg.norm(np.diff(points, axis=0), axis=1).sum()
        lies = flat > (1 - _IN_PLANE) * about["length_ratio"] * about["distance"]
        ax.plot(*points.T, color=COLOURS[kind], linestyle="-" if lies else ":")
        ax.plot(*points[[0, -1]].T, "o", color="#000000", markersize=3)
    ax.set_xlabel("distance along the line between the ends")
    ax.set_title(f"plane through {paths.about['third_point']}")
