"""Ways to draw that the figures share; the look is that of :mod:`cflow_cli.report.style`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cflow_cli.figures.measuring import Direction
from cflow_cli.report import smoothing, style

SHADES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours of what is no process, such as eigenvalues and learning rates: colour-blind safe, in a fixed order."""


def panels(
    rows: int, columns: int, *, titles: Iterable[str] = (), height: float = 1.9, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of panels, a journal's column wide for one or two panels side by side, else two columns.

    Parameters
    ----------
    rows, columns
        Numbers of panels.
    titles
        Titles of the panels, row by row.
    height
        Height of each row in inches.
    **options
        Options of ``Figure.subplots``.
    """
    width = 1.25 * style.COLUMN if columns == 1 else 2 * style.COLUMN + 0.3
    # Figure, not pyplot: no window system is looked for and nothing stays in memory.
    figure = Figure(figsize=(width, height * rows + 0.25), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for ax in axes[-1]:
        ax.set_xlabel("optimizer step")
    for ax, title in zip(axes.ravel(), titles):
        ax.set_title(title)
    return figure, list(axes.ravel())


def letter(figure: Figure) -> None:
    """Letter the panels of a figure that have a title at the left, where there are several."""
    axes = [ax for ax in figure.axes if ax.get_title(loc="left")]
    for name, ax in zip("abcdefghijklmnopqrstuvwxyz", axes if len(axes) > 1 else []):
        ax.set_title(f"({name}) {ax.get_title(loc='left')}", loc="left")


def raw(ax: Axes, values: pd.Series, process: str = "discrete", **look: Any) -> None:
    """Draw what oscillates: thin and pale."""
    own: dict[str, Any] = {"color": style.colour(process), "linewidth": 0.5, "alpha": 0.7}
    ax.plot(values.index, values, **own | look)


def mean(ax: Axes, values: pd.Series, process: str = "midpoint", **look: Any) -> None:
    """Draw the centred mean over ``smoothing.WINDOW`` steps, of squares a variance: wide."""
    _wide(ax, smoothing.smoothed(values), process, look)


def trend(ax: Axes, values: pd.Series, process: str = "midpoint", **look: Any) -> None:
    """Draw what oscillates smoothed over ``smoothing.WINDOW`` steps, a parabola as it is: wide."""
    _wide(ax, smoothing.trend(values), process, look)


def _wide(ax: Axes, values: pd.Series, process: str, look: dict[str, Any]) -> None:
    own: dict[str, Any] = {"color": style.colour(process), "linewidth": 2.4, "alpha": 0.75}
    ax.plot(values.index, values, **own | look)


def flow(ax: Axes, values: pd.Series, process: str = "central", **look: Any) -> None:
    """Draw a flow's own or predicted quantity in its colour and dashes."""
    ax.plot(values.index, values, **style.line(process) | {"linewidth": 1.2} | look)


def threshold(ax: Axes, value: float, label: str | None = None) -> None:
    """Draw the edge of stability as a line, with its name at the left."""
    ax.axhline(value, **style.THRESHOLD)
    if label:
        ax.annotate(
            label, (0.01, value), xycoords=("axes fraction", "data"), va="bottom", fontsize=7, color="#777777"
        )


def arrival(ax: Axes, step: int) -> None:
    """Draw the step at which the edge of stability is reached, as a vertical line."""
    ax.axvline(step, color="#999999", linewidth=0.7, zorder=0)


def eigenvalues(ax: Axes, table: pd.DataFrame, count: int, *, scale: float = 1.0, **look: Any) -> None:
    """Draw the ``count`` largest of a spectrum, one colour each, divided by ``scale``."""
    for place in range(min(count, table.shape[1])):
        own: dict[str, Any] = {"color": SHADES[place], "linewidth": 1.0, "label": f"λ{place + 1}"}
        ax.plot(table.index, table[place] / scale, **own | look)


def variances(ax: Axes, found: Sequence[Direction], *, decades: float, headroom: float) -> None:
    """Draw directions: measured wide and pale, predicted thin; on a logarithmic axis, with a legend."""
    for place, measured, predicted in found:
        wide: dict[str, Any] = {"linewidth": 2.6, "alpha": 0.35}
        thin: dict[str, Any] = {"linewidth": 1.0, "label": f"direction {place + 1}"}
        for values, look in ((measured, wide), (predicted, thin)):
            steps = range(int(values.index[0]), int(values.index[-1]) + 1)
            ax.plot(steps, values.reindex(steps), color=SHADES[place], **look)
    ax.set_yscale("log")
    top = ax.get_ylim()[1]
    ax.set_ylim(top / 10**decades, headroom * top)
    ax.legend(ncols=3, loc="upper left")


def with_flow(axes: Sequence[Axes], runs: Mapping[str, Sequence[tuple[pd.Series, pd.Series]]]) -> None:
    """Draw some runs, each in a colour and smoothed, and the flow of each in black.

    Parameters
    ----------
    axes
        One for each quantity.
    runs
        Label of a run -> for each quantity, that of the optimizer and that of the flow.
    """
    for (label, pairs), colour in zip(runs.items(), SHADES):
        for ax, (real, predicted) in zip(axes, pairs):
            raw(ax, real, color=colour)
            trend(ax, real, color=colour, alpha=0.5, label=label)
            ax.plot(predicted.index, predicted, color="#000000", linewidth=1.0)
    for ax in axes:
        ax.plot([], [], color="#000000", linewidth=1.0, label="central flow")
        ax.set_ylim(0)
