"""The standard panel of a run."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cflow_cli.errors import UserError
from cflow_cli.report import definitions, smoothing, style, summary
from cflow_cli.storage import Run
from cflow_cli.storage.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SPAN = 30.0
_SHOWN_EIGENVALUES = 6


def save_panel(run: Run, path: Path) -> None:
    """Draw the standard panel of a run into a file whose ending says the format.

    Raises
    ------
    UserError
        When the run has no rows yet or the file cannot be written.
    """
    content = io.BytesIO()
    with style.figure_style():
        panel(run).savefig(content, format=path.suffix[1:])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path.parent}: {error.strerror}") from error

    def write(temporary: Path) -> None:
        temporary.write_bytes(content.getvalue())

    write_atomically(path, write)


def panel(run: Run) -> Figure:
    """Draw the standard panel of a run.

    Parameters
    ----------
    run
        As read from disk; may still be going on.

    Returns
    -------
    matplotlib.figure.Figure
        Six axes: loss (raw, smoothed, predicted), top effective eigenvalues with the line at 2,
        distances from the optimizer, variances of the oscillation measured and predicted, squared
        gradient norm measured and predicted, effective step size.

    Raises
    ------
    UserError
        When the run has no rows yet.
    """
    metrics = run.metrics
    with style.figure_style():
        figure = _empty_figure(run, height=6.6)
        axes = figure.subplots(3, 2, sharex=True).ravel()
        time_average(axes[0], metrics, "loss", "training loss")
        effective_eigenvalues(axes[1], run.eigenvalues, metrics)
        distances(axes[2], metrics)
        variances(axes[3], run.eigenvalues)
        time_average(
            axes[4], metrics, "grad_norm_sq", "squared gradient norm ‖∇L‖², lines as in (a)", legend=False
        )
        step_size(axes[5], metrics)
        for letter, ax in zip("abcdef", axes):
            ax.set_title(f"({letter}) {ax.get_title(loc='left')}", loc="left")
        for ax in axes[4:]:
            ax.set_xlabel("optimizer step")
        figure.suptitle(_title(run), fontsize=9)
    return figure


def edge(run: Run) -> Figure:
    """Draw only the loss and the effective eigenvalues of a run, as in :func:`panel`; what its film shows."""
    metrics = run.metrics
    with style.figure_style():
        figure = _empty_figure(run, height=2.4)
        left, right = figure.subplots(1, 2, sharex=True)
        time_average(left, metrics, "loss", "training loss")
        effective_eigenvalues(right, run.eigenvalues, metrics)
        for ax in (left, right):
            ax.set_xlabel("optimizer step")
    return figure


def time_average(ax: Axes, metrics: pd.DataFrame, column: str, title: str, *, legend: bool = True) -> None:
    """Draw a quantity of the optimizer, raw and smoothed, with each flow's own value and its prediction.

    Parameters
    ----------
    ax
        Where to draw.
    metrics
        The metrics table of a run.
    column
        ``loss`` or ``grad_norm_sq``.
    title
        What it is.
    legend
        Whether to name the lines.
    """
    raw = definitions.series(metrics, "discrete", column)
    smooth = smoothing.look(column, raw)
    drawn = [smooth]
    if len(raw):
        ax.plot(raw.index, raw, color=style.colour("discrete"), linewidth=0.5, alpha=0.7, label="optimizer")
    if len(smooth):
        label = f"smoothed over {smoothing.WINDOW} steps"
        ax.plot(smooth.index, smooth, color=style.colour("midpoint"), linewidth=2.4, alpha=0.75, label=label)
    for process in _flows(metrics):
        predicted = definitions.series(metrics, process, f"predicted_{column}")
        own = definitions.series(metrics, process, column)
        oscillates, name = not predicted.empty and process != "stable", definitions.words(process)
        if oscillates:
            ax.plot(predicted.index, predicted, **style.line(process), label=f"predicted by {name}")
        fainter = {"linewidth": 0.7, "alpha": 0.6} if oscillates else {}
        label = f"at the {name}'s w" if oscillates else name
        ax.plot(own.index, own, **style.line(process) | fainter, label=label)
        drawn += [predicted, own]
    _scale(ax, drawn or [raw])
    ax.set_title(title, loc="left")
    if legend and ax.lines:
        ax.legend()


def effective_eigenvalues(ax: Axes, eigenvalues: pd.DataFrame, metrics: pd.DataFrame) -> None:
    """Draw the top eigenvalues of D^½HD^½ of the midpoints (else the optimizer) and of the flows."""
    effective = eigenvalues[
        (eigenvalues["kind"] == "effective") & (eigenvalues["index"] < _SHOWN_EIGENVALUES)
    ]
    present = set(effective["process"])
    real = next((process for process in ("midpoint", "discrete") if process in present), None)
    ax.axhline(2, **style.THRESHOLD)
    highest = 2.0
    for process in [*filter(None, [real]), *_flows(metrics)]:
        rows = effective[effective["process"] == process]
        wide = rows.pivot_table(index="step", columns="index", values="value", observed=True)
        if wide.empty:
            continue
        # Which eigenvalues are tracked changes from step to step: gaps must not be bridged by lines.
        wide = wide.reindex(range(wide.index[0], wide.index[-1] + 1, _spacing(wide.index)))
        look = {"linewidth": 0.8, "alpha": 0.8} if process == real else {"linewidth": 1.2}
        name = definitions.words(process)
        only_top = process in definitions.AT_REST
        columns = list(wide.columns[:1] if only_top else wide.columns)
        for place, column in enumerate(columns):
            label = name if place == 0 else None
            ax.plot(wide.index, wide[column], **style.line(process) | look, label=label)
        # The stable flow leaves the frame; those that oscillate set it, up to their rare spikes.
        if not only_top:
            highest = max(highest, float(np.nanpercentile(wide[columns[0]], 98)))
    ax.set_ylim(0, min(1.25 * highest, 6))
    ax.set_title("effective eigenvalues; the edge is 2", loc="left")
    if len(ax.lines) > 1:
        ax.legend(loc="lower right")


def distances(ax: Axes, metrics: pd.DataFrame) -> None:
    """Draw how far each flow is from the optimizer at the same step."""
    for process in _flows(metrics):
        distance = definitions.series(metrics, process, "distance_to_discrete")
        distance = distance[distance > 0]
        ax.plot(distance.index, distance, **style.line(process), label=definitions.words(process))
    if ax.lines:
        ax.set_yscale("log")
        ax.legend()
    else:
        _nothing(ax, "no flow in this run")
    ax.set_title("distance from the optimizer ‖w − w_discrete‖", loc="left")


def variances(ax: Axes, eigenvalues: pd.DataFrame, process: str = "central") -> None:
    """Draw the variance of the oscillation along each eigenvector of Σ: measured (smoothed) and predicted."""
    window = smoothing.WINDOW
    shown = 3
    shades = ("#000000", "#D55E00", "#009E73")
    rows = eigenvalues[(eigenvalues["process"] == process) & (eigenvalues["index"] < shown)]
    for index in range(shown):
        of_index = rows[rows["index"] == index]
        series = {
            kind: of_index[of_index["kind"] == kind].set_index("step")["value"].sort_index()
            for kind in ("sigma_measured", "sigma")
        }
        if not (series["sigma"] > 0).any():
            continue
        mean = smoothing.smoothed(series["sigma_measured"], window)
        mean = _with_gaps(mean[mean > 0])
        predicted = _with_gaps(series["sigma"][series["sigma"] > 0])
        look: dict[str, Any] = {"color": shades[index]}
        ax.plot(mean.index, mean, **look, linewidth=2.4, alpha=0.35)
        ax.plot(predicted.index, predicted, **look, linewidth=1.0, label=f"direction {index + 1}")
    if ax.lines:
        positive = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.lines])
        positive = positive[np.isfinite(positive)]
        ax.set_yscale("log")
        ax.set_ylim(positive.max() / 1e4 if positive.size else None)
        ax.legend(loc="lower right")
    else:
        _nothing(ax, "no oscillation predicted")
    ax.set_title(f"variances, predicted; wide: measured, {window}-step mean", loc="left")


def step_size(ax: Axes, metrics: pd.DataFrame) -> None:
    """Draw the optimizer's state as one number, the harmonic mean of the effective step sizes D.

    Where that is constant, as for gradient descent at a fixed learning rate, the number of effective
    eigenvalues at the edge is drawn instead.
    """
    present = set(metrics["process"])
    real = [process for process in ("midpoint", "discrete") if process in present][:1]
    column, title = "effective_step_size", "effective step size n / Σ 1/D"
    known = metrics[column].dropna()
    if known.empty or known.max() - known.min() <= 1e-6 * abs(known.max()):
        column, title = "num_critical", "number of eigenvalues at the edge"
    for process in [*real, *_flows(metrics)]:
        values = definitions.series(metrics, process, column)
        if len(values) and (column != "num_critical" or process not in definitions.AT_REST):
            look = {"linewidth": 2.4, "alpha": 0.6} if process in real else {}
            ax.plot(values.index, values, **style.line(process) | look, label=definitions.words(process))
    if ax.lines:
        _scale(ax, [pd.Series(np.asarray(line.get_ydata(), float)) for line in ax.lines])
        if column == "num_critical":
            ax.locator_params(axis="y", integer=True)
        ax.legend()
    else:
        _nothing(ax, "not recorded")
    ax.set_title(title, loc="left")


def _empty_figure(run: Run, height: float) -> Figure:
    # Matplotlib takes half a second, for which those who only need the numbers must not wait.
    from cflow_cli.report.pictures import Picture

    if run.metrics.empty:
        raise UserError(f"{run.folder} has no steps to draw yet")
    return Picture(figsize=(2 * style.COLUMN + 0.3, height), layout="constrained")


def _flows(metrics: pd.DataFrame) -> list[str]:
    present = [str(process) for process in metrics["process"].unique()]
    # The stable flow lies lowest, the central flow on top of all.
    order = {"stable": 0, "central": 2}
    return sorted(filter(definitions.is_flow, present), key=lambda process: order.get(process, 1))


def _scale(ax: Axes, drawn: Sequence[pd.Series]) -> None:
    """Choose a logarithmic axis where the curves span more than a decade and a half."""
    values = np.concatenate([series.to_numpy(float) for series in drawn if len(series)] or [np.ones(1)])
    positive = values[np.isfinite(values) & (values > 0)]
    span = _SPAN * positive.min() if len(positive) and (values >= 0).all() and 0 not in values else np.inf
    if len(positive) and positive.max() > span:
        ax.set_yscale("log")
    elif len(positive):
        ax.set_ylim(0, 1.15 * positive.max())


def _with_gaps(values: pd.Series) -> pd.Series:
    return values if values.empty else values.reindex(range(values.index[0], values.index[-1] + 1))


def _spacing(steps: Any) -> int:
    return max(int(np.gcd.reduce(np.diff(steps))), 1) if len(steps) > 1 else 1


def _nothing(ax: Axes, why: str) -> None:
    ax.text(0.5, 0.5, why, ha="center", va="center", transform=ax.transAxes, color="#777777")


def _title(run: Run) -> str:
    row = summary.summarise(run)
    what = [str(row.get(name)) for name in ("optimizer", "model", "data") if row.get(name)]
    if isinstance(row.get("lr"), float):
        what.insert(1, f"lr {row.get('lr'):g}")
    return ", ".join(what) if what else run.folder.name
