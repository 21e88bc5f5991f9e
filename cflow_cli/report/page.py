"""One self-contained web page for a set of runs: no network, no images, no server."""

from __future__ import annotations

import base64
import datetime
import json
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cflow_cli import __version__
from cflow_cli.errors import UserError
from cflow_cli.report import definitions, style
from cflow_cli.report.definitions import Quantity
from cflow_cli.report.summary import Summary
from cflow_cli.report.table import columns_for, compare_configs, show, telling_keys
from cflow_cli.storage import read_run
from cflow_cli.storage.files import write_text

_POINTS = 90
_LINES = {"stable": "5 2"}
# Eigenvalues and directions drawn of a run.
_SHOWN = 3
_DIRECTIONS = ("central", "stable", "rod")


def write_page(summaries: Sequence[Summary], path: Path, **view: Any) -> None:
    """Write the page into a file.

    Parameters
    ----------
    summaries
        One per run.
    path
        The HTML file.
    view
        As of :func:`render_page`.

    Raises
    ------
    UserError
        When the file cannot be written.
    """
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; give a file, such as {path / 'report.html'}")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    write_text(path, render_page(summaries, **view))


def render_page(
    summaries: Sequence[Summary],
    *,
    by: Sequence[str] = (),
    metrics: Sequence[str] = (),
    sort: str | None = None,
    reverse: bool = False,
    swept: Sequence[str] = (),
) -> str:
    """Render the page: table, panels per run, sweep overviews, settings that differ, definitions.

    The page draws its charts itself from curves of at most 90 points, those of a run when it is
    opened; 500 runs make a file of a few megabytes.

    Parameters
    ----------
    summaries
        One per run, those of cells of a sweep that have not begun too.
    by
        Columns the overviews begin with: lines, then horizontal axis.
    metrics
        Columns the table begins with; by default the usual ones.
    sort, reverse
        What the table is sorted by at first.
    swept
        Config keys that were swept.
    """
    differing, shared = compare_configs(summaries)
    columns = _columns(summaries, [*by, *metrics, *([sort] if sort else []), *swept])
    rows = [
        {
            "values": [_plain(summary.get(str(column["name"]))) for column in columns],
            "notes": summary.notes,
            "config": {key: _plain(summary.config.get(key)) for key in differing} if summary.config else {},
            "configured": bool(summary.config),
            "about": summary.about,
            "curves": _packed(_curves(summary)),
        }
        for summary in summaries
    ]
    names = [str(column["name"]) for column in columns]
    shown = [str(column["name"]) for column in columns if column["shown"]]
    lines, across = _axes(columns, by, swept)
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    data = {
        "made": f"{len(summaries)} run{'s' * (len(summaries) != 1)}, made {now} by cflow {__version__}",
        "columns": columns,
        "rows": rows,
        "differing": differing,
        "shared": {key: _plain(value) for key, value in shared.items()},
        "settings": [[key, _counted(summaries, key)] for key in differing],
        "palette": [
            style.COLOURS[name]
            for name in ("midpoint", "stable", "rod", "edge", "ablated", "discrete", "central")
        ],
        "view": {
            "sort": sort or "",
            "down": reverse,
            "columns": [
                name
                for name, column in zip(names, columns)
                if name in metrics or (name in shown and not (metrics and column["metric"]))
            ],
            # One run alone is what one came for.
            "run": summaries[0].get("run") if len(summaries) == 1 else "",
            "group": lines,
            "x": across,
            "value": next((name for name in metrics if name in names), "loss_error_central"),
        },
    }
    # Inside a script element only "</" could end it; "<!--" could confuse the parser.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace(
        "<", "\\u003c"
    )
    template = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    return template.replace("__DATA__", text)


def _columns(summaries: Sequence[Summary], asked: Sequence[str]) -> list[dict[str, Any]]:
    """Columns of the page: those of the report, and settings that differ and say something new."""
    known = {quantity.name: quantity for quantity in columns_for(summaries)}
    telling = telling_keys(summaries)
    settings: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for quantity in known.values():
        # A cell that never began has only the values it is to have.
        values = {str(value) for summary in summaries if (value := summary.get(quantity.name)) is not None}
        if (not values or (not quantity.shown and len(values) == 1)) and quantity.name not in asked:
            continue
        identifies = not quantity.is_number and quantity.name not in ("run", "status")
        column = _column(quantity, differs=identifies and len(values) > 1, metric=_is_result(quantity))
        # What all runs agree on is said among the settings.
        column["shown"] = quantity.shown and not (identifies and len(values) == 1 and len(summaries) > 1)
        (results if column["metric"] or quantity.name == "steps" else settings).append(column)
    extra = [key for key in dict.fromkeys([*telling, *asked]) if key not in known]
    for key in extra:
        values = {str(summary.get(key)) for summary in summaries}
        numeric = all(isinstance(summary.get(key), int | float | None) for summary in summaries)
        quantity = Quantity(key, key, "number" if numeric else "text", f"the setting {key}")
        column = _column(quantity, differs=len(values) > 1, metric=False)
        # Runs that have little in common differ in dozens of settings: those are among the columns to choose.
        column |= {"key": True, "shown": key in asked or len(telling) <= 6}
        settings.append(column)
    # The status beside the name, where it is seen; then what was chosen, then what came of it.
    settings.sort(key=lambda column: {"run": 0, "status": 1}.get(str(column["name"]), 2))
    return [*settings, *results]


def _is_result(quantity: Quantity) -> bool:
    return quantity.is_number and quantity.name != "steps"


def _column(quantity: Quantity, *, differs: bool, metric: bool) -> dict[str, Any]:
    about = {name: getattr(quantity, name) for name in ("name", "heading", "kind", "meaning")}
    return {**about, "differs": differs, "metric": metric, "key": False, "shown": True}


def _axes(columns: Sequence[dict[str, Any]], by: Sequence[str], swept: Sequence[str]) -> tuple[str, str]:
    """The two settings the overviews begin with: one line per the first, against the second."""
    numeric = {str(column["name"]) for column in columns if column["kind"] != "text"}
    differing = [str(column["name"]) for column in columns if column["differs"]]
    wished = [*by, *(key for key in ("lr", *swept, *differing) if key not in by and key in differing)]
    across = next((name for name in wished if name in numeric and name != "seed"), "lr")
    # Over seeds the mean is taken.
    rest = [name for name in (*by, "optimizer", *wished) if name != across and (name != "seed" or name in by)]
    lines = next((name for name in rest if name in by or name in differing), "optimizer")
    return lines, across


def _counted(summaries: Sequence[Summary], key: str) -> str:
    """Values of a setting and how often each occurs: ``0.1 (3), 0.2 (3)``."""
    counts = Counter(_said(summary.config.get(key)) for summary in summaries if summary.config)
    # Sorted as numbers where they are numbers.
    ordered = sorted(counts.items(), key=lambda item: _order(item[0]))
    told = [f"{value} ({number})" for value, number in ordered[:12]]
    return ", ".join(told) + (f" and {len(ordered) - 12} more" if len(ordered) > 12 else "")


def _said(value: Any) -> str:
    return show(value, "number") if isinstance(value, float) else "–" if value is None else str(value)


def _order(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text


# --- curves ---------------------------------------------------------------------------------------


def _packed(charts: list[dict[str, Any]]) -> str | None:
    """Compress charts to text; a run's curves then take some five kilobytes of the page."""
    if not charts:
        return None
    text = json.dumps(charts, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def _curves(summary: Summary) -> list[dict[str, Any]]:
    """Charts of a run; none if it cannot be read or has no rows."""
    try:
        run = read_run(summary.folder)
        metrics = run.table("metrics", _CURVE_COLUMNS)
        spectra = _spectra(run.table("eigenvalues", ("step", "process", "kind", "index", "value")))
    except UserError:
        return []
    if metrics.empty:
        return []
    flows = [process for process in summary.flows if process != "stable"]
    stable = [process for process in summary.flows if process == "stable"]
    present = set(metrics["process"])
    real = "midpoint" if "midpoint" in present else "discrete"
    name = "midpoints" if real == "midpoint" else "optimizer"

    def get(process: str, column: str) -> pd.Series:
        return definitions.series(metrics, process, column)

    def averages(column: str) -> list[dict[str, Any]]:
        raw = get("discrete", column)
        return [
            _line("discrete", raw, "optimizer", width=0.7, spikes=True, scales=False),
            _line("midpoint", definitions.smoothed(raw), "optimizer, smoothed", width=3.5, opacity=0.7),
            *(_line(flow, get(flow, column), f"{flow} flow") for flow in stable),
            *(
                _line(flow, definitions.prediction(metrics, flow, column), f"{flow} flow, predicted mean")
                for flow in flows
            ),
        ]

    def all_of(column: str, processes: Sequence[str]) -> list[dict[str, Any]]:
        return [_line(process, get(process, column), _called(process, name)) for process in processes]

    sharpness = _eigenvalues(spectra, [real, *stable, *flows], name)
    if not sharpness:
        sharpness = all_of("effective_sharpness", [real, *stable, *flows])
    charts: list[dict[str, Any]] = [
        {"title": "loss", "lines": averages("loss")},
        {"title": "effective eigenvalues", "lines": sharpness, "edge": True, "top": 4},
        {
            "title": "distance from the optimizer",
            "lines": all_of("distance_to_discrete", [*stable, *flows]),
            "decades": 4,
        },
        {
            "title": "variance of the oscillation",
            "lines": _variances(spectra),
            "decades": 4,
        },
        {"title": "squared gradient norm", "lines": averages("grad_norm_sq")},
        {
            "title": "effective step size n / Σ 1/D",
            "lines": all_of("preconditioner_mean", [real, *flows]),
        },
    ]
    for chart in charts:
        chart["lines"] = [line for line in chart["lines"] if line["y"]]
    # A step size that never changes says nothing.
    steps = [value for line in charts[-1]["lines"] for value in line["y"] if value is not None]
    if not steps or max(steps) - min(steps) <= 1e-3 * max(map(abs, steps)):
        charts.pop()
    return [chart for chart in charts if chart["lines"]]


_CURVE_COLUMNS = (
    "step",
    "process",
    "loss",
    "grad_norm_sq",
    "effective_sharpness",
    "predicted_loss",
    "predicted_grad_norm_sq",
    "distance_to_discrete",
    "preconditioner_mean",
)


def _called(process: str, real: str) -> str:
    return f"{process} flow" if definitions.is_flow(process) else real


def _spectra(table: pd.DataFrame) -> dict[tuple[str, str, int], pd.Series]:
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


def _eigenvalues(
    spectra: dict[tuple[str, str, int], pd.Series], processes: Sequence[str], real: str
) -> list[dict[str, Any]]:
    """The largest effective eigenvalues of each process, of the stable flow only the first."""
    lines = []
    for process in processes:
        for index in range(1 if process == "stable" else _SHOWN):
            values = spectra.get((process, "effective", index), _EMPTY)
            width = 1.5 if definitions.is_flow(process) else 0.9
            lines.append(
                _line(process, values, _called(process, real), width=width, opacity=1 - 0.25 * index)
            )
    return [line for line in lines if line["y"]]


def _variances(
    spectra: dict[tuple[str, str, int], pd.Series], process: str = "central"
) -> list[dict[str, Any]]:
    """Variance along each direction of Σ: measured, smoothed, and as the flow predicts it."""
    lines = []
    for index, colour in zip(range(_SHOWN), _DIRECTIONS):
        measured, predicted = (
            spectra.get((process, kind, index), _EMPTY) for kind in ("sigma_measured", "sigma")
        )
        for values, label, width, opacity in (
            (definitions.smoothed(measured), f"measured {index + 1}", 3.5, 0.45),
            (predicted, f"predicted {index + 1}", 1.5, 1.0),
        ):
            look: dict[str, Any] = {"width": width, "opacity": opacity, "colour": style.colour(colour)}
            lines.append(_line("", values[values > 0], label, **look))
    return lines if any(line["y"] for line in lines[1::2]) else []


def _line(
    process: str,
    values: pd.Series,
    label: str,
    *,
    width: float = 1.5,
    opacity: float = 1,
    spikes: bool = False,
    scales: bool = True,
    colour: str | None = None,
) -> dict[str, Any]:
    x, found = thinned(values, spikes=spikes)
    y: list[float | None] = [*found]
    spacings = set(np.diff(x).tolist())
    # Where a direction was not tracked for a while, its line must not go on.
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
        "dash": _LINES.get(process, ""),
        "width": width,
        "opacity": opacity,
        "scales": scales,
    }


def thinned(
    values: pd.Series, points: int = _POINTS, *, spikes: bool = False
) -> tuple[list[int], list[float]]:
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
    >>> thinned(spike, 4), thinned(spike, 4, spikes=True)
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


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
