"""One self-contained web page for a set of runs: no network, no images, no server."""

from __future__ import annotations

import datetime
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cflow_cli import __version__
from cflow_cli.errors import UserError
from cflow_cli.report import style
from cflow_cli.report.curves import packed_charts
from cflow_cli.report.definitions import Quantity
from cflow_cli.report.overview import columns_for, compare_configs, distinguishing_keys, setting_column
from cflow_cli.report.summary import Summary
from cflow_cli.report.tables import format_value
from cflow_cli.storage.files import write_text


def write_page(summaries: Sequence[Summary], path: Path, **view: Any) -> None:
    """Write the page into a file.

    Parameters
    ----------
    summaries
        One per run.
    path
        The HTML file.
    view
        See :func:`render_page`.

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
    reload_every: float | None = None,
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
    reload_every
        Seconds after which the page loads itself anew, with the view it then has; None for a page that stays.
    """
    differing, shared = compare_configs(summaries)
    columns = _columns(summaries, [*by, *metrics, *([sort] if sort else []), *swept])
    rows = [
        {
            "values": [_to_json_value(summary.get(str(column["name"]))) for column in columns],
            "notes": summary.notes,
            "config": {key: _to_json_value(summary.config.get(key)) for key in differing}
            if summary.config
            else {},
            "configured": bool(summary.config),
            "about": summary.about,
            "curves": packed_charts(summary.folder, summary.flows),
        }
        for summary in summaries
    ]
    names = [str(column["name"]) for column in columns]
    shown = [str(column["name"]) for column in columns if column["shown"]]
    lines, across = _axes(columns, by, swept)
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
    data = {
        "made": f"{len(summaries)} run{'s' * (len(summaries) != 1)}, made {now} by cflow {__version__}",
        "reload_every": reload_every,
        "columns": columns,
        "rows": rows,
        "differing": differing,
        "shared": {key: _to_json_value(value) for key, value in shared.items()},
        "settings": [[key, _count_values(summaries, key)] for key in differing],
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
    # What turns the direction of writing, or is a command to a terminal where the page is printed on one.
    text = re.sub(
        r"[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]", lambda found: json.dumps(found[0])[1:-1], text
    )
    template = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    return template.replace("__DATA__", text)


def _columns(summaries: Sequence[Summary], asked: Sequence[str]) -> list[dict[str, Any]]:
    """Columns of the page: those of the report, and settings that differ and say something new."""
    known = {quantity.name: quantity for quantity in columns_for(summaries)}
    distinguishing = distinguishing_keys(summaries)
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
    extra = [key for key in dict.fromkeys([*distinguishing, *asked]) if key not in known]
    for key in extra:
        values = {str(summary.get(key)) for summary in summaries}
        column = _column(setting_column(key, summaries), differs=len(values) > 1, metric=False)
        # Runs that have little in common differ in dozens of settings: those are among the columns to choose.
        column |= {"key": True, "shown": key in asked or len(distinguishing) <= 6}
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


def _count_values(summaries: Sequence[Summary], key: str) -> str:
    """Values of a setting and how often each occurs: ``0.1 (3), 0.2 (3)``."""
    counts = Counter(_setting_text(summary.config.get(key)) for summary in summaries if summary.config)
    # Sorted as numbers where they are numbers.
    ordered = sorted(counts.items(), key=lambda item: _sort_key(item[0]))
    shown = [f"{value} ({number})" for value, number in ordered[:12]]
    return ", ".join(shown) + (f" and {len(ordered) - 12} more" if len(ordered) > 12 else "")


def _setting_text(value: Any) -> str:
    return format_value(value, "number") if isinstance(value, float) else "–" if value is None else str(value)


def _sort_key(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text


def _to_json_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
