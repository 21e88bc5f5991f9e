"""One writer for all tables: Markdown, CSV, LaTeX and JSON here, the terminal in :mod:`cflow_cli.report.terminal`.

It loads no pandas: ``cflow list`` and ``--help`` answer at once.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

from cflow_cli.errors import printable

FORMATS = ("table", "md", "csv", "latex", "json")
"""How a table can be written; ``table`` is for the terminal."""

FOR_PROGRAMS = ("csv", "json")
"""Formats that hold every column and full precision; the others are for a reader."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    name
        As typed on the command line and in CSV and JSON.
    heading
        As shown above the column.
    kind
        ``text``, ``count``, ``number``, ``percent`` or ``seconds``; how it is shown.
    meaning
        Its definition, in one sentence.
    wraps
        Whether a narrow terminal may fold its values into several lines.
    """

    name: str
    heading: str
    kind: str
    meaning: str = ""
    wraps: bool = False


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
        ``(run, sentence)``; None for a table that never has any.
    shared
        ``(heading, value)`` of columns left out because all rows agree on them.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[tuple[str, str]] | None = None
    shared: Sequence[tuple[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make all text printable, whatever form the table is written in: anybody may write the files it is from."""
        columns = [
            replace(
                column,
                name=printable(column.name),
                heading=printable(column.heading),
                meaning=printable(column.meaning),
            )
            for column in self.columns
        ]
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "rows", [[_printable(value) for value in row] for row in self.rows])
        if self.notes is not None:
            notes = [(printable(run), printable(note)) for run, note in self.notes]
            object.__setattr__(self, "notes", notes)
        shared = [(printable(heading), _printable(value)) for heading, value in self.shared]
        object.__setattr__(self, "shared", shared)

    def format_cells(self) -> list[list[str]]:
        """Format all values for reading."""
        return [
            [format_value(value, column.kind) for value, column in zip(row, self.columns, strict=True)]
            for row in self.rows
        ]

    def note_lines(self) -> list[str]:
        """Say each note once, with the runs it is about; many runs are named in part."""
        runs: dict[str, list[str]] = {}
        for run, note in self.notes or ():
            runs.setdefault(note, []).append(run)
        lines = []
        for note, names in runs.items():
            named = (
                ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"
            )
            lines.append(f"{named}: {note}")
        return lines

    def shared_line(self) -> str:
        """What all rows agree on: ``optimizer adam, model mlp``."""
        return ", ".join(f"{heading} {format_value(value, 'number')}" for heading, value in self.shared)


def render(table: Table, form: str) -> str:
    """Write a table as Markdown, CSV, LaTeX (booktabs) or JSON.

    Parameters
    ----------
    table
        What to write.
    form
        ``md``, ``csv``, ``latex`` or ``json``. CSV and JSON hold full precision, the others three
        digits.

    Examples
    --------
    >>> columns = [Column("lr", "lr", "number"), Column("loss_error_central", "error", "percent")]
    >>> print(render(Table(columns, [[0.1, 0.01234], [0.2, None]]), "md"), end="")
    | lr | error |
    | ---: | ---: |
    | 0.1 | 1.23 % |
    | 0.2 | – |
    """
    return {"md": _to_markdown, "csv": _to_csv, "latex": _to_latex, "json": _to_json}[form](table)


def to_html(table: Table) -> str:
    """Write a table as a piece of HTML without colours of its own: a notebook's are light or dark.

    Parameters
    ----------
    table
        What to write; the meaning of a column is shown when one points at its heading.

    Examples
    --------
    >>> html = to_html(Table([Column("lr", "lr", "number", "learning rate")], [[0.1]], [("a", "diverged")]))
    >>> '<th style="text-align: right" title="learning rate">lr</th>' in html, "<li>a: diverged</li>" in html
    (True, True)
    """
    align = ["left" if column.kind == "text" else "right" for column in table.columns]
    head = [
        f'<th style="text-align: {side}" title="{escape(column.meaning)}">{escape(column.heading)}</th>'
        for column, side in zip(table.columns, align)
    ]
    rows = [
        "".join(f'<td style="text-align: {side}">{escape(text)}</td>' for text, side in zip(texts, align))
        for texts in table.format_cells()
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    whole = f"<table><thead><tr>{''.join(head)}</tr></thead><tbody>{body}</tbody></table>"
    notes = "".join(f"<li>{escape(line)}</li>" for line in table.note_lines())
    return f'<div style="overflow-x: auto">{whole}</div>' + (f"<ul>{notes}</ul>" if notes else "")


def markdown(headings: Sequence[str], rows: Sequence[Sequence[Any]], kinds: Sequence[str] = ()) -> str:
    """Write rows below headings as a Markdown table, for a page of the documentation.

    Parameters
    ----------
    headings
        Above the columns.
    rows
        Text, numbers or None.
    kinds
        Of the columns; by default those that hold a number are numbers.

    Examples
    --------
    >>> print(markdown(["model", "seconds"], [["mlp", 0.12345], ["cnn", None]]), end="")
    | model | seconds |
    | --- | ---: |
    | mlp | 0.123 |
    | cnn | – |
    """
    columns = []
    for place, heading in enumerate(headings):
        numeric = any(is_number(row[place]) for row in rows)
        columns.append(Column(heading, heading, kinds[place] if kinds else "number" if numeric else "text"))
    return render(Table(columns, rows), "md")


def _printable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def is_number(value: Any) -> bool:
    """Whether a value is a number that can be averaged and sorted by."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def format_value(value: Any, kind: str) -> str:
    """Format one value with sensible digits; a missing one is a dash, an integer has all of its digits.

    Parameters
    ----------
    value
        Text, number, :class:`Estimate` or None.
    kind
        See :class:`Column`.

    Examples
    --------
    >>> format_value(0.012345, "percent"), format_value(0.1, "number"), format_value(4000, "seconds")
    ('1.23 %', '0.1', '1:06:40')
    >>> format_value(None, "count"), format_value(12345, "number"), format_value(12345.6, "number")
    ('–', '12345', '12350')
    """
    if value is None:
        return "–"
    if isinstance(value, Estimate):
        if value.error is None:
            return format_value(value.mean, "number" if kind == "count" else kind)
        scale, unit = {"percent": (100, " %"), "seconds": (1, " s")}.get(kind, (1, ""))
        return format_estimate(scale * value.mean, scale * value.error) + unit
    if not is_number(value) or kind in ("text", "count"):
        return str(value)
    if kind == "percent":
        return f"{100 * value:.3g} %"
    if kind == "seconds":
        if value < 600:
            return f"{value:.3g} s"
        minutes, seconds = divmod(round(value), 60)
        return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
    if isinstance(value, int):
        return str(value)
    if not 1000 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{float(f'{value:.4g}'):.0f}"


def format_estimate(mean: float, error: float) -> str:
    """Format a mean with its error: the error to two digits, the mean to the same place.

    Examples
    --------
    >>> format_estimate(0.031234, 0.0011), format_estimate(143.2, 5.13)
    ('0.0312 ± 0.0011', '143.2 ± 5.1')
    >>> format_estimate(12345, 678), format_estimate(2, 0)
    ('12345 ± 678', '2 ± 0')
    >>> format_estimate(1.23456e-7, 4.5e-9)
    '(1.235 ± 0.045)e-07'
    """
    largest = max(abs(mean), abs(error))
    if not math.isfinite(largest) or not math.isfinite(error) or error == 0:
        return f"{mean:.3g} ± {error:.2g}"
    if not 1e-4 <= largest < 1e6:
        power = math.floor(math.log10(largest))
        return f"({format_estimate(mean / 10**power, error / 10**power)})e{power:+03d}"
    places = max(1 - math.floor(math.log10(error)), 0)
    # An error far below the mean's own precision is no reason for a dozen digits.
    places = min(places, 6 - math.floor(math.log10(largest)))
    return f"{mean:.{places}f} ± {error:.{places}f}"


def _to_markdown(table: Table) -> str:
    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

    rule = "| " + " | ".join("---" if column.kind == "text" else "---:" for column in table.columns) + " |"
    lines = [line([column.heading for column in table.columns]), rule, *map(line, table.format_cells())]
    if table.shared:
        lines += ["", f"In all runs: {table.shared_line()}."]
    if table.notes:
        lines += ["", *(f"- {line}" for line in table.note_lines())]
    return "\n".join(lines) + "\n"


def _notes_by_row(table: Table) -> list[list[str]] | None:
    """Notes of each row; None where rows are no runs, or have no notes."""
    names = [column.name for column in table.columns]
    if table.notes is None or "run" not in names:
        return None
    place = names.index("run")
    return [[note for run, note in table.notes if run == row[place]] for row in table.rows]


def _to_csv(table: Table) -> str:
    """One line per row; an estimate takes two columns, the mean and its error."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    spread = [any(isinstance(row[p], Estimate) for row in table.rows) for p in range(len(table.columns))]
    header: list[str] = []
    for column, has_error in zip(table.columns, spread):
        header += [column.name, f"{column.name}_standard_error"] if has_error else [column.name]
    notes = _notes_by_row(table)
    writer.writerow(map(_to_cell, header if notes is None else [*header, "notes"]))
    for number, row in enumerate(table.rows):
        values: list[Any] = []
        for value, has_error in zip(row, spread):
            if has_error:
                values += [value.mean, value.error] if isinstance(value, Estimate) else [None, None]
            else:
                values.append(value)
        if notes is not None:
            values.append("; ".join(notes[number]))
        writer.writerow(map(_to_cell, values))
    return out.getvalue()


def _to_cell(value: Any) -> Any:
    """A value of a CSV file; text that a spreadsheet would take for a formula gets its sign for text."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@")):
        return f"'{value}"
    return "" if value is None else value


def _to_json(table: Table) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, Estimate):
            return {"mean": plain(value.mean), "standard_error": plain(value.error), "runs": value.runs}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    names = [column.name for column in table.columns]
    rows: list[dict[str, Any]] = [dict(zip(names, map(plain, row))) for row in table.rows]
    for row, notes in zip(rows, _notes_by_row(table) or ()):
        row["notes"] = notes
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


def _to_latex(table: Table) -> str:
    kinds = [column.kind for column in table.columns]

    def line(texts: Sequence[str]) -> str:
        return " & ".join(_typeset(text, kind) for text, kind in zip(texts, kinds)) + r" \\"

    align = "".join("l" if kind == "text" else "r" for kind in kinds)
    lines = [
        r"% needs \usepackage{booktabs}",
        *(f"% in all runs: {heading} {format_value(value, 'number')}" for heading, value in table.shared),
        *(f"% {line}" for line in table.note_lines()),
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        line([column.heading for column in table.columns]),
        r"\midrule",
        *map(line, table.format_cells()),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"
