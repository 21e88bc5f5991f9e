"""The number that a run returns to a sweeper such as Optuna's: one column of the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cflow_cli.errors import UserError, did_you_mean
from cflow_cli.report import definitions
from cflow_cli.report.summary import summarise_folder


def column(name: str, processes: Sequence[Any], measurements: Sequence[Any]) -> str:
    """Name of the column that an objective means.

    Parameters
    ----------
    name
        A column of ``cflow report``; a flow may stand after a dot, ``loss_error.central``.
    processes, measurements
        Options of the run, of which it depends which columns there are.

    Raises
    ------
    UserError
        If a run of these processes and measurements has no such column, or it is text.
    """
    flows = [process.name for process in processes if definitions.is_flow(process.name)]
    numbers = [q.name for q in definitions.quantities(flows) if q.kind != "text"]
    own = [column for m in measurements for column in m.columns_for([p.name for p in processes])]
    own += [column for m in measurements for column in m.predictions()[0] if flows]
    own += [column for process in processes for column in getattr(process, "columns", ())]
    numbers += [column.name for column in own if definitions.is_own(column)]
    plain = name.replace(".", "_")
    if plain not in numbers:
        hint = did_you_mean(plain, numbers)
        raise UserError(
            f"objective={name} is no column of numbers of this run's report{hint}; there are {', '.join(numbers)}"
        )
    return plain


def value(folder: Path, name: str) -> float | None:
    """Value of a column for a run, as ``cflow report`` shows it.

    Parameters
    ----------
    folder
        A run folder.
    name
        From :func:`column`.

    Returns
    -------
    float or None
        None where there is no such value, and for a run that is not done or has diverged.
    """
    summary = summarise_folder(folder)
    found = summary.get(name)
    if summary.get("status") != "done" or found is None or not math.isfinite(found):
        return None
    return float(found)
