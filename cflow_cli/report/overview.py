"""One table of many runs: which columns it has, in what order its rows come, and groups over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from cflow_cli.errors import UserError, did_you_mean
from cflow_cli.report.definitions import Quantity, quantities
from cflow_cli.report.summary import Summary
from cflow_cli.report.tables import Column, Estimate, Table, is_number

# Columns that identify a run; left out of the body, and said once above it, when all runs agree.
_IDENTITY = ("optimizer", "lr", "model", "data", "seed", "steps")
# Settings that follow another one or are shown under another name.
_IMPLIED = ("loss", "model", "data", "optimizer", "name", "hydra.run.dir")
# Runs that differ in more settings than this are no sweep: a table for a reader leaves the settings out.
_FEW = 3


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
    _check_names((*by, *metrics, *([sort] if sort else [])), known, summaries)

    def column(name: str) -> Quantity:
        return known.get(name) or setting_column(name, summaries)

    chosen = [column(name) for name in metrics]
    chosen = chosen or _usual_columns(known, summaries, complete=complete, swept=swept)
    if by:
        return _group(summaries, [column(name) for name in by], chosen, sort, reverse)
    if metrics and "run" not in metrics:
        chosen = [known["run"], *chosen]
    ordered = _sort(summaries, lambda summary: summary.get(sort), reverse) if sort else list(summaries)
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
    return Table(chosen, rows, _collect_notes(ordered), shared)


def _check_names(names: Sequence[str], known: Mapping[str, Quantity], summaries: Sequence[Summary]) -> None:
    """Refuse a name that is neither a quantity nor a key of a config."""
    keys = dict.fromkeys(key for summary in summaries for key in summary.config)
    for name in names:
        if name not in known and name not in keys:
            raise UserError(
                f"no column {name!r} in these runs{did_you_mean(name, [*known, *keys])}; choose from "
                f"{', '.join(known)} or a key of the config such as {next(iter(keys), 'optimizer.b2')}"
            )


def _usual_columns(
    known: Mapping[str, Quantity], summaries: Sequence[Summary], *, complete: bool, swept: Sequence[str]
) -> list[Quantity]:
    """Columns of a table for which none were asked for, with the settings that were varied."""
    usual = [quantity for quantity in known.values() if quantity.shown or complete]
    differing = distinguishing_keys(summaries)
    if not complete and len(differing) > _FEW:
        differing = [key for key in differing if key in swept]
    # What was varied is read together with what was chosen.
    first = next((place for place, q in enumerate(usual) if q.name == "steps"), len(usual))
    usual[first:first] = [setting_column(key, summaries) for key in differing if key not in known]
    return usual


def _collect_notes(summaries: Sequence[Summary]) -> list[tuple[str, str]]:
    return [(str(summary.get("run")), note) for summary in summaries for note in summary.notes]


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


def distinguishing_keys(summaries: Sequence[Summary]) -> list[str]:
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
    flows = dict.fromkeys(flow for summary in summaries for flow in summary.flows)
    order = {"central": 0, "stable": 1}
    own = {quantity.name: quantity for summary in summaries for quantity in summary.own}
    return quantities(sorted(flows, key=lambda flow: order.get(flow, 2)), list(own.values()))


def setting_column(key: str, summaries: Sequence[Summary]) -> Quantity:
    """The column of a key of the config."""
    values = [value for summary in summaries if (value := summary.get(key)) is not None]
    kind = "number" if any(map(is_number, values)) else "text"
    if values and all(is_number(value) and isinstance(value, int) for value in values):
        kind = "count"
    return Quantity(key, key, kind, f"the setting {key}")


def _sort(items: Sequence[Any], value_of: Callable[[Any], Any], reverse: bool) -> list[Any]:
    """Sort by a value, numbers before text; items without one come last whatever the order."""

    def key(item: Any) -> tuple[int, float, str]:
        value = value_of(item)
        if isinstance(value, Estimate):
            value = value.mean
        return (0, value, "") if is_number(value) else (1, 0.0, str(value))

    present = [item for item in items if value_of(item) is not None]
    missing = [item for item in items if value_of(item) is None]
    return sorted(present, key=key, reverse=reverse) + missing


def _group(
    summaries: Sequence[Summary],
    by: Sequence[Quantity],
    chosen: Sequence[Quantity],
    sort: str | None,
    reverse: bool,
) -> Table:
    """One row per group of runs that agree on ``by``: means over those that are done."""
    keys = {quantity.name for quantity in by}
    numbers = [quantity for quantity in chosen if quantity.is_number and quantity.name not in keys]
    runs = Column("runs", "runs", "text", "runs that are done, which alone are averaged, of all in the group")
    columns = [*by, runs, *numbers]
    groups: dict[tuple[str, ...], list[Summary]] = {}
    for summary in summaries:
        groups.setdefault(tuple(str(summary.get(key.name)) for key in by), []).append(summary)
    rows = [_average(members, by, numbers) for members in groups.values()]
    for place in reversed(range(len(by))):
        rows = _sort(rows, itemgetter(place), False)
    if sort is not None:
        names = [column.name for column in columns]
        if sort not in names:
            raise UserError(f"cannot sort groups by {sort}; choose from {', '.join(names)}")
        rows = _sort(rows, itemgetter(names.index(sort)), reverse)
    kept = [
        place
        for place in range(len(columns))
        if place <= len(by) or any(row[place] is not None for row in rows)
    ]
    return Table(
        [columns[p] for p in kept], [[row[p] for p in kept] for row in rows], _collect_notes(summaries)
    )


def _average(members: Sequence[Summary], by: Sequence[Quantity], numbers: Sequence[Quantity]) -> list[Any]:
    """The row of a group: its keys, how many of its runs are averaged, and the estimates."""
    done = [summary for summary in members if summary.get("status") == "done"]
    count = str(len(done)) if len(done) == len(members) else f"{len(done)} of {len(members)}"
    estimates = [
        Estimate.of([value for summary in done if is_number(value := summary.get(quantity.name))])
        for quantity in numbers
    ]
    return [*(members[0].get(key.name) for key in by), count, *estimates]
