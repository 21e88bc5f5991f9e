"""The charts of one run on the page: which there are, and their curves, thinned and packed."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cflow_cli import records
from cflow_cli.errors import UserError
from cflow_cli.report import definitions, kept, smoothing, style
from cflow_cli.storage import read_run

Spectra = Mapping[tuple[str, str, int], pd.Series]
"""Process, kind and index -> value against step."""

_POINTS = 90
_DASH = "5 2"
# Eigenvalues and directions drawn of a run, and the processes whose colours the directions have.
_SHOWN = 3
_DIRECTION_COLOURS = ("central", "stable", "rod")
_PREDICTED = "predicted_"
_COLUMNS = (
    "step",
    "process",
    "loss",
    "grad_norm_sq",
    "effective_sharpness",
    "predicted_loss",
    "predicted_grad_norm_sq",
    "distance_to_discrete",
    "effective_step_size",
)


def pack_charts(charts: list[dict[str, Any]]) -> str | None:
    """Compress charts to text; a run's curves then take some five kilobytes of the page."""
    if not charts:
        return None
    text = json.dumps(charts, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def packed_charts(folder: Path, flows: Sequence[str]) -> str | None:
    """The charts of a run, compressed; those that were kept beside it, where they are of these files."""
    mark = kept.stamp(folder)
    known = kept.load(folder, "curves", mark)
    if known is None:
        known = pack_charts(run_charts(folder, flows))
        kept.save(folder, "curves", mark, known)
    return known


def run_charts(folder: Path, flows: Sequence[str]) -> list[dict[str, Any]]:
    """Charts of a run; none if it cannot be read or has no rows.

    After the usual ones comes one for each column that only this run has. Meanings and units are those in
    the run's own files.

    Parameters
    ----------
    folder
        The run's folder.
    flows
        Its flows.
    """
    try:
        run = read_run(folder)
        own = definitions.own_columns(run)
        metrics = run.table("metrics", [*_COLUMNS, *own])
        spectra = _read_spectra(run.table("eigenvalues", ("step", "process", "kind", "index", "value")))
    except UserError:
        return []
    if metrics.empty:
        return []
    # Drawn last, a flow lies on top: the stable flow is what others are compared with.
    view = _View(metrics, spectra, sorted(flows, key=lambda flow: flow != "stable"))
    charts = [*_usual_charts(view, run.columns), *_own_charts(view, run.columns, list(own))]
    for chart in charts:
        chart["lines"] = [line for line in chart["lines"] if line["y"]]
    return [chart for chart in charts if chart["lines"]]


@dataclass(frozen=True)
class _View:
    """What is drawn of a run.

    Parameters
    ----------
    metrics
        Rows of the run.
    spectra
        Its eigenvalues.
    flows
        Its flows, in the order they are drawn.
    """

    metrics: pd.DataFrame
    spectra: Spectra
    flows: Sequence[str]

    @property
    def present(self) -> set[str]:
        """Processes that have rows."""
        return set(self.metrics["process"])

    @property
    def real(self) -> str:
        """The process that stands for the optimizer where its oscillation is not wanted."""
        return "midpoint" if "midpoint" in self.present else "discrete"

    def series(self, process: str, column: str) -> pd.Series:
        """One column of one process against step."""
        return definitions.series(self.metrics, process, column)

    def averages(self, column: str) -> list[dict[str, Any]]:
        """Lines of a quantity that oscillates: raw, smoothed, and as each flow predicts it."""
        raw = self.series("discrete", column)
        lines = [
            _make_line("discrete", raw, "optimizer", width=0.7, spikes=True, scales=False),
            _make_line(
                "midpoint", smoothing.look(column, raw), "optimizer, smoothed", width=3.5, opacity=0.7
            ),
        ]
        for flow in self.flows:
            name = definitions.words(flow)
            if flow in definitions.AT_REST:
                lines.append(_make_line(flow, self.series(flow, column), name))
            else:
                predicted = definitions.prediction(self.metrics, flow, column)
                lines.append(_make_line(flow, predicted, f"{name}, predicted mean"))
        return lines

    def each(self, column: str, processes: Sequence[str]) -> list[dict[str, Any]]:
        """One line per process."""
        return [_make_line(p, self.series(p, column), definitions.words(p)) for p in processes]

    def measured(self, column: str, predicted: str) -> list[dict[str, Any]]:
        """Lines of a measurement of a run's own: every process, and dashed what the flows predict of its mean."""
        lines = []
        for process in (*definitions.OBSERVED, *self.flows):
            spiky = process == "discrete"
            values = self.series(process, column)
            lines.append(
                _make_line(
                    process, values, definitions.words(process), width=0.9 if spiky else 1.5, spikes=spiky
                )
            )
        if predicted:
            mean = smoothing.look(column, self.series("discrete", column))
            lines.append(_make_line("midpoint", mean, "optimizer, smoothed", width=3.5, opacity=0.7))
            for flow in self.flows:
                values = self.series(flow, predicted)
                lines.append(
                    _make_line(flow, values, f"{definitions.words(flow)}, predicted mean", dash=_DASH)
                )
        return lines


def _usual_charts(view: _View, columns: Mapping[str, records.Column]) -> list[dict[str, Any]]:
    others = [flow for flow in view.flows if flow != "stable"]
    sharpness = _eigenvalue_lines(view.spectra, [view.real, *view.flows])
    if not sharpness:
        sharpness = view.each("effective_sharpness", [view.real, *view.flows])

    def about(column: str) -> str:
        return definitions.describe(columns[column])

    charts: list[dict[str, Any]] = [
        {"title": "loss", "about": about("loss"), "lines": view.averages("loss")},
        {
            "title": "effective eigenvalues",
            "about": records.KINDS["effective"],
            "lines": sharpness,
            "edge": True,
            "top": 4,
        },
        {
            "title": "distance from the optimizer",
            "about": about("distance_to_discrete"),
            "lines": view.each("distance_to_discrete", view.flows),
            "decades": 4,
        },
        {
            "title": "variance of the oscillation",
            "about": records.KINDS["sigma"],
            "lines": _variance_lines(view.spectra),
            "decades": 4,
        },
        {
            "title": "squared gradient norm",
            "about": about("grad_norm_sq"),
            "lines": view.averages("grad_norm_sq"),
        },
        {
            "title": "effective step size n / Σ 1/D",
            "about": about("effective_step_size"),
            "lines": view.each("effective_step_size", [view.real, *others]),
        },
    ]
    # A step size that never changes says nothing.
    steps = [value for line in charts[-1]["lines"] for value in line["y"] if value is not None]
    if not steps or max(steps) - min(steps) <= 1e-3 * max(map(abs, steps)):
        charts.pop()
    return charts


def _own_charts(
    view: _View, columns: Mapping[str, records.Column], own: Sequence[str]
) -> list[dict[str, Any]]:
    """A chart per measurement of the run's own; what is predicted is drawn over what was measured."""
    charts = []
    measured = [name.removeprefix(_PREDICTED) for name in own]
    for name in dict.fromkeys(base if base in columns else name for base, name in zip(measured, own)):
        column = columns[name]
        unit = f" ({column.unit})" if column.unit not in ("", "1") else ""
        predicted = _PREDICTED + name if _PREDICTED + name in columns else ""
        caption = column.meaning
        if predicted:
            caption += f"; dashed: {columns[predicted].meaning or 'as the flows predict it'}"
        charts.append(
            {
                "title": name + unit,
                "about": definitions.describe(column),
                "caption": caption,
                "lines": view.measured(name, predicted),
            }
        )
    return charts


def _read_spectra(table: pd.DataFrame) -> dict[tuple[str, str, int], pd.Series]:
    """The first few eigenvalues of each process and kind against step."""
    # Arrays, and sorted once: five hundred runs have some ten million eigenvalues.
    process, kind = (table[name].astype("category").cat for name in ("process", "kind"))
    index, values = table["index"].to_numpy(), table["value"].to_numpy(float)
    drawn = np.isin(kind.categories, ("effective", "sigma", "sigma_measured"))
    kept = np.flatnonzero((index < _SHOWN) & np.append(drawn, False)[kind.codes] & np.isfinite(values))
    if not len(kept):
        return {}
    code = process.codes.to_numpy(int)[kept] * len(drawn) + kind.codes.to_numpy(int)[kept]
    code = code * _SHOWN + index[kept]
    step = table["step"].to_numpy(int)[kept]
    order = np.lexsort((step, code))
    out = {}
    for rows in np.split(order, np.flatnonzero(np.diff(code[order])) + 1):
        which, number = divmod(int(code[rows[0]]), _SHOWN)
        of, what = divmod(which, len(drawn))
        key = str(process.categories[of]), str(kind.categories[what]), number
        out[key] = pd.Series(values[kept[rows]], index=step[rows])
    return out


_EMPTY = pd.Series(dtype=float, index=pd.Index([], dtype=int))


def _eigenvalue_lines(spectra: Spectra, processes: Sequence[str]) -> list[dict[str, Any]]:
    """The largest effective eigenvalues of each process, of those without oscillation only the first."""
    lines = []
    for process in processes:
        for index in range(1 if process in definitions.AT_REST else _SHOWN):
            values = spectra.get((process, "effective", index), _EMPTY)
            width = 1.5 if definitions.is_flow(process) else 0.9
            name = definitions.words(process)
            lines.append(_make_line(process, values, name, width=width, opacity=1 - 0.25 * index))
    return [line for line in lines if line["y"]]


def _variance_lines(spectra: Spectra, process: str = "central") -> list[dict[str, Any]]:
    """Variance along each direction of Σ: measured, smoothed, and as the flow predicts it."""
    lines = []
    for index, colour in zip(range(_SHOWN), _DIRECTION_COLOURS):
        measured, predicted = (
            spectra.get((process, kind, index), _EMPTY) for kind in ("sigma_measured", "sigma")
        )
        for values, label, width, opacity in (
            (smoothing.smoothed(measured), f"measured {index + 1}", 3.5, 0.45),
            (predicted, f"predicted {index + 1}", 1.5, 1.0),
        ):
            look: dict[str, Any] = {"width": width, "opacity": opacity, "colour": style.colour(colour)}
            lines.append(_make_line("", values[values > 0], label, **look))
    return lines if any(line["y"] for line in lines[1::2]) else []


def _make_line(
    process: str,
    values: pd.Series,
    label: str,
    *,
    width: float = 1.5,
    opacity: float = 1,
    spikes: bool = False,
    scales: bool = True,
    colour: str | None = None,
    dash: str | None = None,
) -> dict[str, Any]:
    """A curve as the page draws it."""
    x, found = thin(values, spikes=spikes)
    y: list[float | None] = [*found]
    spacings = set(np.diff(x).tolist())
    # Where a direction was not tracked for a while, its line must have a gap.
    usual = 3 * float(np.median(np.diff(x))) if len(x) > 1 else np.inf
    for place in reversed([place for place, gap in enumerate(np.diff(x)) if gap > usual]):
        x.insert(place + 1, x[place] + 1)
        y.insert(place + 1, None)
    # An even grid is its start and its spacing: half the size of the page.
    return {
        "x": {"start": x[0], "by": spacings.pop()} if len(spacings) == 1 else x,
        "y": y,
        "label": label,
        "colour": colour or style.colour(process),
        "dash": dash if dash is not None else _DASH if process == "stable" else "",
        "width": width,
        "opacity": opacity,
        "scales": scales,
    }


def thin(values: pd.Series, points: int = _POINTS, *, spikes: bool = False) -> tuple[list[int], list[float]]:
    """Thin a curve to at most ``points`` points, in four digits.

    Parameters
    ----------
    values
        Value against step.
    points
        Even number.
    spikes
        Keep the smallest and the largest value of each stretch, as an oscillating curve needs;
        otherwise points at even distances.

    Examples
    --------
    >>> spike = pd.Series([0.0, 0, 0, 9, 0, 0, 0, 0])
    >>> thin(spike, 4), thin(spike, 4, spikes=True)
    (([0, 2, 4, 6], [0.0, 0.0, 0.0, 0.0]), ([0, 3, 4], [0.0, 9.0, 0.0]))
    """
    values = values[np.isfinite(values)]
    if len(values) > points:
        if spikes:
            kept: list[int] = []
            for stretch in np.array_split(np.arange(len(values)), points // 2):
                of_stretch = values.to_numpy()[stretch]
                kept += sorted({int(stretch[of_stretch.argmin()]), int(stretch[of_stretch.argmax()])})
            values = values.iloc[kept]
        else:
            values = values.iloc[:: -(-len(values) // points)]
    return [int(step) for step in values.index], [float(f"{value:.4g}") for value in values]
