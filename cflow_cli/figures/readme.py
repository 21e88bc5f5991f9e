"""The table of claims in a figure's README, written from its ``figure.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cflow_cli.errors import UserError
from cflow_cli.figures.claims import Check
from cflow_cli.figures.experiment import Experiment

BEGIN, END = "<!-- claims -->", "<!-- /claims -->"


def table(checks: Sequence[Check]) -> str:
    """The checks as Markdown: what is measured, the bounds and, where there are such, the paper's values."""
    rows = [[check.general_text, check.bounds, check.paper] for check in checks]
    head = ["checked", "bounds", "in the paper"]
    columns = 3 if any(check.paper for check in checks) else 2
    lines = [head, ["---"] * 3, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line[:columns])} |" for line in lines)


def updated(figure: Experiment) -> str:
    """The README of a figure with the table between its markers as it is to be.

    Raises
    ------
    UserError
        If there is no README, or it has no such markers.
    """
    path = _path(figure)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{path} needs the lines {BEGIN} and {END}, between which its table of claims goes")
    return f"{before}{BEGIN}\n\n{table(figure.checks)}\n\n{END}{after}"


def update(figure: Experiment) -> Path:
    """Write the table of claims into the README of a figure; return its path."""
    text = updated(figure)
    path = _path(figure)
    path.write_text(text, encoding="utf-8")
    return path


def _path(figure: Experiment) -> Path:
    return figure.folder / "README.md"
