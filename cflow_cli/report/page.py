"""One self-contained web page for a set of runs: no network, no images, no server."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cflow_cli.errors import UserError
from cflow_cli.report import definitions, style
from cflow_cli.report.summary import Summary
from cflow_cli.report.table import columns_for
from cflow_cli.storage import read_run
from cflow_cli.storage.files import write_text

_POINTS = 90
_LINES = {"stable": "5 2"}


def write_page(summaries: Sequence[Summary], path: Path) -> None:
    """Write the page: table, panels per run, sweep overviews, settings that differ, definitions.

    The page draws its charts itself from curves of at most 90 points, those of a run when it is
    opened; 500 runs make a file of a few megabytes.

    Parameters
    ----------
    summaries
        One per run.
    path
        The HTML file.

    Raises
    ------
    UserError
        When the file cannot be written.
    """
    differing, shared = compare_configs(summaries)
    columns = _columns(summaries, differing)
    rows = []
    for summary in summaries:
        rows.append(
            {
                "values": [_plain(summary.get(str(column["name"]))) for column in columns],
                "notes": summary.notes,
                "config": {key: _plain(summary.config.get(key)) for key in differing},
                "curves": _curves(summary),
            }
        )
    palette = [
        style.COLOURS[name]
        for name in ("midpoint", "stable", "rod", "edge", "ablated", "discrete", "central")
    ]
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    data = {
        "made": f"made {now} by cflow report",
        "columns": columns,
        "rows": rows,
        "differing": differing,
        "shared": {key: _plain(value) for key, value in shared.items()},
        "palette": palette,
    }
    # Inside a script element only "</" could end it; "<!--" could confuse the parser.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace(
        "<", "\\u003c"
    )
    template = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    write_text(path, template.replace("__DATA__", text))


def compare_configs(summaries: Sequence[Summary]) -> tuple[list[str], dict[str, Any]]:
    """Tell the config keys that differ between runs from those all agree on.

    Returns
    -------
    differing
        Keys, sorted; a key only some runs have differs.
    shared
        Key to the common value.
    """
    configs = [summary.config for summary in summaries if summary.config]
    differing, shared = [], {}
    for key in sorted({key for config in configs for key in config}):
        values = [config.get(key) for config in configs]
        if all(value == values[0] for value in values[1:]) and all(key in config for config in configs):
            shared[key] = values[0]
        else:
            differing.append(key)
    return differing, shared


def _columns(summaries: Sequence[Summary], differing: Sequence[str]) -> list[dict[str, Any]]:
    """Columns of the page: those of the report, and settings that differ and say something new."""
    known = columns_for(summaries)
    out = []
    for quantity in known:
        values = {str(summary.get(quantity.name)) for summary in summaries}
        if values == {"None"} or (not quantity.shown and len(values) == 1):
            continue
        identifies = not quantity.is_number and quantity.name not in ("run", "status")
        out.append(
            {
                "name": quantity.name,
                "heading": quantity.heading,
                "kind": quantity.kind,
                "meaning": quantity.meaning,
                "metric": quantity.is_number and quantity.name != "steps",
                "differs": identifies and len(values) > 1,
            }
        )
    names = {column["name"] for column in out}
    # optimizer.learning_rate follows lr, and targets follow the names already shown.
    implied = {"loss", "model", "data", "optimizer", "schedule"}
    for key in differing:
        if key in names or key.endswith(("._target_", ".learning_rate")) or key in implied:
            continue
        # A setting only one optimizer has tells no runs apart that its name would not; it is in the panels.
        if len({str(s.config[key]) for s in summaries if s.config.get(key) is not None}) < 2:
            continue
        numeric = all(isinstance(s.config.get(key), int | float | None) for s in summaries)
        out.append(
            {
                "name": key,
                "heading": key,
                "kind": "number" if numeric else "text",
                "meaning": f"setting {key}",
                "metric": False,
                "differs": True,
            }
        )
    # The status beside the name, where it is seen.
    out.sort(key=lambda column: {"run": 0, "status": 1}.get(str(column["name"]), 2))
    # Settings before results: what was varied is read together with what was chosen.
    first = next((place for place, column in enumerate(out) if column["metric"]), len(out))
    added = [column for column in out if column["name"] in differing and column["name"] not in names]
    rest = [column for column in out if column not in added]
    return [*rest[:first], *added, *rest[first:]]


def _curves(summary: Summary) -> str | None:
    """Curves of a run's four charts as JSON text, or None if it cannot be read or has no rows."""
    try:
        metrics = read_run(summary.folder).table("metrics", _CURVE_COLUMNS)
    except UserError:
        return None
    if metrics.empty:
        return None
    flows = [process for process in summary.flows if process != "stable"]
    stable = [process for process in summary.flows if process == "stable"]
    present = set(metrics["process"])
    real = "midpoint" if "midpoint" in present else "discrete"

    def get(process: str, column: str) -> pd.Series:
        return definitions.series(metrics, process, column)

    def averages(column: str) -> list[dict[str, Any]]:
        raw = get("discrete", column)
        return [
            _line("discrete", raw, "optimizer", width=0.7, spikes=True, scales=False),
            _line("midpoint", definitions.smoothed(raw), "optimizer, smoothed", width=3.5, opacity=0.7),
            *(_line(flow, get(flow, column), f"{flow} flow") for flow in stable),
            *(_line(flow, definitions.prediction(metrics, flow, column), f"{flow} flow") for flow in flows),
        ]

    def flow_lines(column: str) -> list[dict[str, Any]]:
        return [_line(flow, get(flow, column), f"{flow} flow") for flow in (*stable, *flows)]

    name = "midpoints" if real == "midpoint" else "optimizer"
    sharpness = [_line(real, get(real, "effective_sharpness"), name), *flow_lines("effective_sharpness")]
    charts: list[dict[str, Any]] = [
        {"title": "loss (flows: predicted mean)", "lines": averages("loss")},
        {"title": "effective sharpness", "lines": sharpness, "edge": True, "top": 4},
        {"title": "distance from the optimizer", "lines": flow_lines("distance_to_discrete")},
        {"title": "squared gradient norm (flows: predicted mean)", "lines": averages("grad_norm_sq")},
    ]
    for chart in charts:
        chart["lines"] = [line for line in chart["lines"] if line["y"]]
    return json.dumps(charts, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


_CURVE_COLUMNS = (
    "step",
    "process",
    "loss",
    "grad_norm_sq",
    "effective_sharpness",
    "predicted_loss",
    "predicted_grad_norm_sq",
    "distance_to_discrete",
)


def _line(
    process: str,
    values: pd.Series,
    label: str,
    *,
    width: float = 1.5,
    opacity: float = 1,
    spikes: bool = False,
    scales: bool = True,
) -> dict[str, Any]:
    x, y = thinned(values, spikes=spikes)
    # An even grid is its start and its spacing: half the size of the page.
    spacings = set(np.diff(x).tolist())
    return {
        "x": {"start": x[0], "by": spacings.pop()} if len(spacings) == 1 else x,
        "y": y,
        "label": label,
        "colour": style.colour(process),
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
