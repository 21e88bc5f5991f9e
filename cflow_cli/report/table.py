"""Tables of summaries: selection, grouping over seeds, and the formats they are written in."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cflow_cli.config import did_you_mean
from cflow_cli.errors import UserError
from cflow_cli.report.definitions import Quantity, quantities
from cflow_cli.report.summary import Summary

# Columns that identify a run; left out of the body, and said once above it, when all runs agree.
_IDENTITY = ("optimizer", "lr", "model", "data", "seed", "steps")
# Settings that follow another one or are shown under another name.
_IMPLIED = ("loss", "model", "data", "optimizer", "name", "hydra.run.dir")
# Runs that differ in more settings than this are no sweep: a table for a reader leaves the settings out.
_FEW = 3


@dataclass(frozen=True)
class Estimate:
    """Mean over the runs of a group and its standard error s/√n.

    Parameters
    ----------
    mean
        Mean over the runs that have the value.
    error
        Standard error of the mean; None for a single run.
    runs
        How many runs have the value.
    """

    mean: float
    error: float | None
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate | None:
        """Estimate from the values of the runs; None if there are none.

        Examples
        --------
        >>> Estimate.of([1.0, 2.0, 3.0])
        Estimate(mean=2.0, error=0.5773502691896257, runs=3)
        """
        n = len(values)
        if n == 0:
            return None
        mean = math.fsum(values) / n
        if n == 1:
            return cls(mean, None, 1)
        variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
        return cls(mean, math.sqrt(variance / n), n)


@dataclass(frozen=True)
class Table:
    """Columns, rows of values, and what is to be said below them.

    Parameters
    ----------
    columns
        What each column is.
    rows
        One list of values per row; a value is text, a number, an :class:`Estimate` or None.
    notes
        ``(run, sentence)``.
    shared
        ``(heading, value)`` of identifying columns left out because all runs agree on them.
    """

    columns: list[Quantity]
    rows: list[list[Any]]
    notes: list[tuple[str, str]]
    shared: list[tuple[str, Any]]


def build(
    summaries: Sequence[Summary],
    *,
    by: Sequence[str] = (),
    metrics: Sequence[str] = (),
    sort: str | None = None,
    reverse: bool = False,
    complete: bool = False,
    swept: Sequence[str] = (),
) -> Table:
    """Arrange summaries as a table.

    Parameters
    ----------
    summaries
        One per run.
    by
        Quantities or dotted config keys to group by; the others become mean ± standard error over
        the runs of a group that are done.
    metrics
        Quantities to show; by default the usual ones.
    sort
        Quantity or config key to sort by; missing values come last.
    reverse
        Largest first.
    complete
        Keep every column, for a program; otherwise, for a reader, only the usual ones, and those that
        say what was run only where runs differ.
    swept
        Config keys that were swept, which are always shown.

    Raises
    ------
    UserError
        When a name is neither a quantity nor a config key; the sentence lists the quantities.
    """
    known = {quantity.name: quantity for quantity in columns_for(summaries)}
    keys = dict.fromkeys(key for summary in summaries for key in summary.config)
    for name in (*by, *metrics, *([sort] if sort else [])):
        if name not in known and name not in keys:
            raise UserError(
                f"no column {name!r} in these runs{did_you_mean(name, [*known, *keys])}; choose from "
                f"{', '.join(known)} or a key of the config such as {next(iter(keys), 'optimizer.b2')}"
            )
    default = [quantity for quantity in known.values() if quantity.shown or complete]
    differing = telling_keys(summaries)
    if not complete and len(differing) > _FEW:
        differing = [key for key in differing if key in swept]
    # What was varied is read together with what was chosen.
    first = next((place for place, q in enumerate(default) if q.name == "steps"), len(default))
    default[first:first] = [_key(key, summaries) for key in differing if key not in known]
    chosen = [known.get(name, _key(name, summaries)) for name in metrics] or default
    if by:
        return _grouped(
            summaries, [known.get(name, _key(name, summaries)) for name in by], chosen, sort, reverse
        )

    if metrics and "run" not in metrics:
        chosen = [known["run"], *chosen]
    ordered = _sorted(summaries, lambda summary: summary.get(sort), reverse) if sort else list(summaries)
    shared = []
    if not metrics and not complete and len(ordered) > 1:
        for quantity in [quantity for quantity in chosen if quantity.name in _IDENTITY]:
            values = {str(summary.get(quantity.name)) for summary in ordered}
            if len(values) == 1:
                chosen.remove(quantity)
                shared.append((quantity.heading, ordered[0].get(quantity.name)))
    # A column no run has a value for says nothing.
    if not complete:
        chosen = [q for q in chosen if q.name in metrics or any(s.get(q.name) is not None for s in ordered)]
    rows = [[summary.get(quantity.name) for quantity in chosen] for summary in ordered]
    notes = [(str(summary.get("run")), note) for summary in ordered for note in summary.notes]
    return Table(chosen, rows, notes, shared)


def render(table: Table, form: str) -> str:
    """Write a table as Markdown, CSV, LaTeX (booktabs) or JSON.

    Parameters
    ----------
    table
        From :func:`build`.
    form
        ``md``, ``csv``, ``latex`` or ``json``. CSV and JSON hold full precision, the others three
        digits.

    Examples
    --------
    >>> columns = [Quantity("lr", "lr", "number", ""), Quantity("loss_error_central", "error", "percent", "")]
    >>> print(render(Table(columns, [[0.1, 0.01234], [0.2, None]], [], []), "md"), end="")
    | lr | error |
    | ---: | ---: |
    | 0.1 | 1.23 % |
    | 0.2 | – |
    """
    return {"md": _markdown, "csv": _csv, "latex": _latex, "json": _json}[form](table)


def show(value: Any, kind: str) -> str:
    """Format one value with sensible digits; a missing one is a dash.

    Parameters
    ----------
    value
        Text, number, :class:`Estimate` or None.
    kind
        As in :class:`~cflow_cli.report.definitions.Quantity`.

    Examples
    --------
    >>> show(0.012345, "percent"), show(0.1, "number"), show(4000, "seconds"), show(None, "count")
    ('1.23 %', '0.1', '1:06:40', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, Estimate):
        if value.error is None:
            return show(value.mean, "number" if kind == "count" else kind)
        scale, unit = {"percent": (100, " %"), "seconds": (1, " s")}.get(kind, (1, ""))
        return with_error(scale * value.mean, scale * value.error) + unit
    if isinstance(value, str) or kind == "text":
        return str(value)
    if isinstance(value, bool) or kind == "count":
        return str(value)
    if kind == "percent":
        return f"{100 * value:.3g} %"
    if kind == "seconds":
        if value < 600:
            return f"{value:.3g} s"
        minutes, seconds = divmod(round(value), 60)
        return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
    if not 1000 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{float(f'{value:.4g}'):.0f}"


def with_error(mean: float, error: float) -> str:
    """Format a mean with its error: the error to two digits, the mean to the same place.

    Examples
    --------
    >>> with_error(0.031234, 0.0011), with_error(143.2, 5.13), with_error(12345, 678), with_error(2, 0)
    ('0.0312 ± 0.0011', '143.2 ± 5.1', '12345 ± 678', '2 ± 0')
    >>> with_error(1.23456e-7, 4.5e-9)
    '(1.235 ± 0.045)e-07'
    """
    largest = max(abs(mean), abs(error))
    if not math.isfinite(largest) or not math.isfinite(error) or error == 0:
        return f"{mean:.3g} ± {error:.2g}"
    if not 1e-4 <= largest < 1e6:
        power = math.floor(math.log10(largest))
        return f"({with_error(mean / 10**power, error / 10**power)})e{power:+03d}"
    places = max(1 - math.floor(math.log10(error)), 0)
    # An error far below the mean's own precision is no reason for a dozen digits.
    places = min(places, 6 - math.floor(math.log10(largest)))
    return f"{mean:.{places}f} ± {error:.{places}f}"


def cells(table: Table) -> list[list[str]]:
    """Format all values of a table for reading."""
    return [[show(value, column.kind) for value, column in zip(row, table.columns)] for row in table.rows]


def told(table: Table) -> list[str]:
    """Say each note once, with the runs it is about; many runs are named in part."""
    runs: dict[str, list[str]] = {}
    for run, note in table.notes:
        runs.setdefault(note, []).append(run)
    lines = []
    for note, names in runs.items():
        shown = ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
        lines.append(f"{shown}: {note}")
    return lines


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


def telling_keys(summaries: Sequence[Summary]) -> list[str]:
    """List the config keys that differ between runs and tell more than their optimizer, model and data do."""
    found = []
    for key in compare_configs(summaries)[0]:
        # optimizer.learning_rate follows lr, and targets follow the names already shown.
        if key.endswith(("_target_", ".learning_rate")) or key in _IMPLIED:
            continue
        # A setting only one optimizer has tells no runs apart that its name would not.
        if len({str(s.config[key]) for s in summaries if s.config.get(key) is not None}) > 1:
            found.append(key)
    return found


def columns_for(summaries: Sequence[Summary]) -> list[Quantity]:
    """List all quantities these runs can have: the central flow's before the stable one's before others'."""
    found = dict.fromkeys(flow for summary in summaries for flow in summary.flows)
    order = {"central": 0, "stable": 1}
    return quantities(sorted(found, key=lambda flow: order.get(flow, 2)))


def _key(name: str, summaries: Sequence[Summary]) -> Quantity:
    values = [summary.get(name) for summary in summaries]
    numeric = any(_is_number(value) for value in values)
    return Quantity(name, name, "number" if numeric else "text", f"the setting {name}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sorted(items: Sequence[Any], value: Any, reverse: bool) -> list[Any]:
    def key(item: Any) -> tuple[int, float, str]:
        found = value(item)
        if isinstance(found, Estimate):
            found = found.mean
        return (0, found, "") if _is_number(found) else (1, 0.0, str(found))

    present = [item for item in items if value(item) is not None]
    missing = [item for item in items if value(item) is None]
    return sorted(present, key=key, reverse=reverse) + missing


def _grouped(
    summaries: Sequence[Summary],
    by: Sequence[Quantity],
    chosen: Sequence[Quantity],
    sort: str | None,
    reverse: bool,
) -> Table:
    numbers = [
        quantity for quantity in chosen if quantity.is_number and quantity.name not in {q.name for q in by}
    ]
    groups: dict[tuple[str, ...], list[Summary]] = {}
    for summary in summaries:
        groups.setdefault(tuple(str(summary.get(key.name)) for key in by), []).append(summary)
    runs = Quantity(
        "runs", "runs", "text", "runs that are done, which alone are averaged, of all in the group"
    )
    columns = [*by, runs, *numbers]
    rows = []
    for members in groups.values():
        done = [summary for summary in members if summary.get("status") == "done"]
        count = str(len(done)) if len(done) == len(members) else f"{len(done)} of {len(members)}"
        estimates = [
            Estimate.of([v for summary in done if _is_number(v := summary.get(quantity.name))])
            for quantity in numbers
        ]
        rows.append([*(members[0].get(key.name) for key in by), count, *estimates])
    for place in reversed(range(len(by))):
        rows = _sorted(rows, lambda row, place=place: row[place], False)
    if sort is not None:
        names = [column.name for column in columns]
        if sort not in names:
            raise UserError(f"cannot sort groups by {sort}; choose from {', '.join(names)}")
        rows = _sorted(rows, lambda row: row[names.index(sort)], reverse)
    kept = [
        place
        for place, column in enumerate(columns)
        if place <= len(by) or any(row[place] is not None for row in rows)
    ]
    notes = [(str(summary.get("run")), note) for summary in summaries for note in summary.notes]
    return Table([columns[p] for p in kept], [[row[p] for p in kept] for row in rows], notes, [])


def _markdown(table: Table) -> str:
    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

    rule = "| " + " | ".join("---" if column.kind == "text" else "---:" for column in table.columns) + " |"
    lines = [line([column.heading for column in table.columns]), rule, *map(line, cells(table))]
    if table.shared:
        shared = ", ".join(f"{heading} {show(value, 'number')}" for heading, value in table.shared)
        lines += ["", f"In all runs: {shared}."]
    if table.notes:
        lines += ["", *(f"- {line}" for line in told(table))]
    return "\n".join(lines) + "\n"


def _csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header: list[str] = []
    wide = [
        any(isinstance(row[place], Estimate) for row in table.rows) for place in range(len(table.columns))
    ]
    for column, is_wide in zip(table.columns, wide):
        header += [column.name, f"{column.name}_standard_error"] if is_wide else [column.name]
    said = any(column.name == "run" for column in table.columns)
    writer.writerow([*header, *(["notes"] if said else [])])
    for row in table.rows:
        values: list[Any] = []
        for value, is_wide in zip(row, wide):
            if is_wide:
                values += [value.mean, value.error] if isinstance(value, Estimate) else [None, None]
            else:
                values.append(value)
        if said:
            run = row[[column.name for column in table.columns].index("run")]
            values.append("; ".join(note for name, note in table.notes if name == run))
        writer.writerow(["" if value is None else value for value in values])
    return out.getvalue()


def _json(table: Table) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, Estimate):
            return {"mean": plain(value.mean), "standard_error": plain(value.error), "runs": value.runs}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    rows = []
    for row in table.rows:
        entry = {column.name: plain(value) for column, value in zip(table.columns, row)}
        if "run" in entry:
            entry["notes"] = [note for name, note in table.notes if name == entry["run"]]
        rows.append(entry)
    definitions = {column.name: column.meaning for column in table.columns}
    return json.dumps({"rows": rows, "definitions": definitions}, indent=2, ensure_ascii=False) + "\n"


_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", "–": "--"}
)


def _typeset(text: str, kind: str) -> str:
    text = text.translate(_LATEX)
    power = r"(?<=[\d)])e([+-]?\d+)"
    return text if kind == "text" else re.sub(power, lambda m: rf"$\times10^{{{int(m[1])}}}$", text)


def _latex(table: Table) -> str:
    def line(texts: Sequence[str]) -> str:
        kinds = [column.kind for column in table.columns]
        return " & ".join(_typeset(text, kind) for text, kind in zip(texts, kinds)) + r" \\"

    align = "".join("l" if column.kind == "text" else "r" for column in table.columns)
    told_ = [f"% in all runs: {heading} {show(value, 'number')}" for heading, value in table.shared]
    told_ += [f"% {line}" for line in told(table)]
    lines = [
        r"% needs \usepackage{booktabs}",
        *told_,
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        line([column.heading for column in table.columns]),
        r"\midrule",
        *map(line, cells(table)),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"
