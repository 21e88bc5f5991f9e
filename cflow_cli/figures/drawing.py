"""Ways to draw and to measure that the figures share; the look is that of :mod:`cflow_cli.report.style`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from cflow_cli.report import definitions, style
from cflow_cli.storage import Run

from .claims import Claim

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHADES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours of what is no process, such as eigenvalues and learning rates: colour-blind safe, in a fixed order."""

NUMERICAL_ZERO = 1e-5
"""Eigenvalues of Σ below this part of its largest count as zero."""

_DIRECTIONS = 3


def panels(rows: int, columns: int, *, height: float = 1.9, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure with lettered panels, a journal's column wide for one or two panels side by side, else two columns.

    Parameters
    ----------
    rows, columns
        Of panels.
    height
        Of each row in inches.
    **options
        Of ``Figure.subplots``.
    """
    # Figure, not pyplot: no window system is looked for and nothing stays in memory.
    from matplotlib.figure import Figure

    width = 1.25 * style.COLUMN if columns == 1 else 2 * style.COLUMN + 0.3
    figure = Figure(figsize=(width, height * rows + 0.25), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for ax in axes[-1]:
        ax.set_xlabel("optimizer step")
    return figure, list(axes.ravel())


def finish(figure: Figure) -> Figure:
    """Letter the panels of a figure, where there are several, and return it."""
    axes = [ax for ax in figure.axes if ax.get_title(loc="left")]
    for letter, ax in zip("abcdefghijklmnopqrstuvwxyz", axes if len(axes) > 1 else []):
        ax.set_title(f"({letter}) {ax.get_title(loc='left')}", loc="left")
    return figure


def learning_rate(run: Run) -> float:
    """η of a run with a constant learning rate."""
    return float(run.config["lr"])


def series(run: Run, process: str, column: str) -> pd.Series:
    """One column of one process against step."""
    return definitions.series(run.metrics, process, column)


def spectrum(run: Run, process: str, kind: str = "effective") -> pd.DataFrame:
    """The values of one kind (see ``records.KINDS``) of one process: a row per step, columns counted from 0.

    That is the index of an eigenvalue, largest first; watched weights come in the order of their positions.
    """
    table = run.eigenvalues
    rows = table[(table["process"] == process) & (table["kind"] == kind)]
    wide = rows.pivot_table(index="step", columns="index", values="value", observed=True)
    if wide.empty:
        return wide
    wide.columns = pd.RangeIndex(wide.shape[1])
    # What is tracked changes from step to step, and lines must not bridge the gaps.
    spacing = max(int(np.gcd.reduce(np.diff(wide.index))), 1) if len(wide) > 1 else 1
    return wide.reindex(range(int(wide.index[0]), int(wide.index[-1]) + 1, spacing))


def second_moment(run: Run, process: str) -> pd.Series:
    """ν̂ of Scalar RMSProp, bias-corrected where the run's is: (η/D − ε)², as D = η/(√ν̂ + ε)."""
    step_size = series(run, process, "preconditioner_mean")
    eps = float(run.config["optimizer"]["eps"])
    return (series(run, process, "learning_rate")[step_size.index] / step_size - eps) ** 2


def watched_moments(run: Run, process: str, kind: str = "preconditioner") -> pd.DataFrame:
    """ν̂ of RMSProp at the watched weights, (η/D − ε)²: a row per measurement, a column per weight.

    Parameters
    ----------
    run, process
        Of what.
    kind
        ``preconditioner``, or ``stationary_preconditioner`` for that at rest, ν̄.
    """
    # The program for the stationary one neglects ε.
    eps = float(run.config["optimizer"]["eps"]) if kind == "preconditioner" else 0.0
    return (learning_rate(run) / spectrum(run, process, kind).dropna() - eps) ** 2


def raw(ax: Axes, values: pd.Series, process: str = "discrete", **look: Any) -> None:
    """Draw what oscillates: thin and pale."""
    own: dict[str, Any] = {"color": style.colour(process), "linewidth": 0.5, "alpha": 0.7}
    ax.plot(values.index, values, **own | look)


def mean(ax: Axes, values: pd.Series, process: str = "midpoint", **look: Any) -> None:
    """Draw the centred mean over ``definitions.WINDOW`` steps: wide."""
    smooth = definitions.smoothed(values)
    own: dict[str, Any] = {"color": style.colour(process), "linewidth": 2.4, "alpha": 0.75}
    ax.plot(smooth.index, smooth, **own | look)


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


def eigenvalues(ax: Axes, table: pd.DataFrame, count: int, *, scale: float = 1.0, **look: Any) -> None:
    """Draw the ``count`` largest of a :func:`spectrum`, one colour each, divided by ``scale``."""
    for place in range(min(count, table.shape[1])):
        own: dict[str, Any] = {"color": SHADES[place], "linewidth": 1.0, "label": f"λ{place + 1}"}
        ax.plot(table.index, table[place] / scale, **own | look)


def edge_step(run: Run, process: str = "central") -> int:
    """Step at which a process reaches the edge of stability; where none does, the last one.

    As ``edge_step`` of the report, from the branch point of the flows on.
    """
    values = series(run, process, "effective_sharpness")
    found = definitions.onset(values, int(run.manifest.get("warm_start") or 0))
    return int(values.index[-1]) if found is None else found


def since(values: pd.Series | pd.DataFrame, step: int) -> Any:
    """The part of a series from a step on."""
    return values[values.index >= step]


def median_ratio(measured: pd.Series, predicted: pd.Series) -> float:
    """Median over the steps both have of predicted / measured."""
    both = measured.index.intersection(predicted.index)
    return float((predicted[both] / measured[both]).median()) if len(both) else float("nan")


def median_error(measured: pd.Series, predicted: pd.Series) -> float:
    """Median over the steps both have of |predicted / measured − 1|."""
    both = measured.index.intersection(predicted.index)
    return float((predicted[both] / measured[both] - 1).abs().median()) if len(both) else float("nan")


def distance_ratio(run: Run, near: str = "central", far: str = "stable") -> float:
    """How many times nearer one flow is to the optimizer than another, at the end (see ``definitions``)."""
    ratio = definitions.distance_ratio(
        series(run, near, "distance_to_discrete"), series(run, far, "distance_to_discrete")
    )
    return 1 / ratio if ratio > 0 else float("nan")


def late_mean(values: pd.Series, step: int) -> float:
    """Mean over the last half of what follows a step; NaN where hardly anything does."""
    after = since(values, step).dropna()
    return float(after.iloc[len(after) // 2 :].mean()) if len(after) > 1 else float("nan")


class Direction(NamedTuple):
    """One eigenvector of Σ: its place, the smoothed squared displacement along it, the predicted variance."""

    place: int
    measured: pd.Series
    predicted: pd.Series


def directions(run: Run, scale: float = 1.0) -> list[Direction]:
    """Measured and predicted variances of the oscillation along the eigenvectors of Σ, those that last a window.

    Parameters
    ----------
    run
        With the central flow.
    scale
        Factor on what is recorded, which is in the D^-1 norm, in units of the loss; D = η makes it weight².
    """
    measured, predicted = (spectrum(run, "central", kind) * scale for kind in ("sigma_measured", "sigma"))
    found = []
    for place in predicted.columns[:_DIRECTIONS]:
        sigma = predicted[place].dropna()
        sigma = sigma[sigma > NUMERICAL_ZERO * predicted[0].max()]
        if len(sigma) > definitions.WINDOW:
            found.append(Direction(place, definitions.smoothed(measured[place].dropna()), sigma))
    return found


def variances(ax: Axes, found: Sequence[Direction], *, decades: float, headroom: float) -> None:
    """Draw :func:`directions`: measured wide and pale, predicted thin; on a logarithmic axis, with a legend."""
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


def variance_claims(found: Sequence[Direction]) -> Iterator[Claim]:
    """Several directions, each predicted within 30 % over the later half of its time."""
    yield Claim("directions that oscillate", len(found), low=2)
    for place, measured, predicted in found:
        middle = (int(predicted.index[0]) + int(predicted.index[-1])) // 2
        both = since(predicted, middle).index.intersection(measured.index)
        # Real oscillations swell and fade together over more than the steps of a moving mean: over all that is there.
        ratio = predicted[both].mean() / measured[both].mean()
        text = f"direction {place + 1}: mean predicted over mean measured variance since step {middle}"
        yield Claim(text, ratio, 0.7, 1.3)


def with_flow(
    axes: Sequence[Axes], runs: Mapping[str, Sequence[tuple[pd.Series, pd.Series]]], titles: Sequence[str]
) -> None:
    """Draw some runs, each in a colour with its mean, and the flow of each in black.

    Parameters
    ----------
    axes, titles
        One for each quantity.
    runs
        Label of a run -> for each quantity, that of the optimizer and that of the flow.
    """
    for (label, pairs), colour in zip(runs.items(), SHADES):
        for ax, (real, predicted) in zip(axes, pairs):
            raw(ax, real, color=colour)
            mean(ax, real, color=colour, alpha=0.5, label=label)
            ax.plot(predicted.index, predicted, color="#000000", linewidth=1.0)
    for ax, title in zip(axes, titles):
        ax.plot([], [], color="#000000", linewidth=1.0, label="central flow")
        ax.set_title(title, loc="left")
        ax.set_ylim(0)
