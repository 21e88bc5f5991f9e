"""One row per run: the quantities of :mod:`cflow_cli.report.definitions`, and what must be said about it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from cflow_cli.config.tree import flatten
from cflow_cli.errors import attempt
from cflow_cli.records import Status
from cflow_cli.report import bursts, definitions, kept, smoothing
from cflow_cli.report.definitions import Quantity
from cflow_cli.storage import Run, read_run

if TYPE_CHECKING:
    from cflow_cli.runs.sweeps import Cell

# Kicks with which an oscillation begins as soon as it can, also where rounding is small.
_USUAL_KICK = 1e-3
_COLUMNS = (
    "step",
    "process",
    "loss",
    "test_accuracy",
    "effective_sharpness",
    "num_critical",
    "predicted_loss",
    "grad_norm_sq",
    "predicted_grad_norm_sq",
    "sigma_trace",
    "distance_to_discrete",
    "status",
)


@dataclass(frozen=True)
class Summary:
    """What a report says about one run.

    Parameters
    ----------
    folder
        Where it is.
    values
        Quantity name to value; absent or None where it does not exist.
    flows
        Flows of the run.
    notes
        Sentences: why it failed, which process stopped or did not converge.
    config
        The resolved config with dotted keys, ``optimizer.b2`` and so on.
    about
        How it came about: command, device, versions and so on.
    own
        What this run measured beyond ``records.METRICS``; the values are among ``values``.
    """

    folder: Path
    values: dict[str, Any]
    flows: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    own: tuple[Quantity, ...] = ()

    def get(self, name: str) -> Any:
        """Value of a quantity or of a dotted key of the config."""
        return self.values.get(name, self.config.get(name))


def not_begun(cell: Cell, name: str) -> Summary:
    """Summarise a cell of a sweep that has no folder yet: its status, and the values it is to have.

    Parameters
    ----------
    cell
        From :func:`cflow_cli.runs.sweeps.cells`.
    name
        How the report calls it.
    """
    values: dict[str, Any] = {"run": name, "status": cell.status}
    for text in cell.job.overrides if cell.job else ():
        key, _, value = text.lstrip("+~").partition("=")
        if key != "steps":  # the column has those that were taken
            values["loss_function" if key == "loss" else key] = _number(value)
    return Summary(cell.folder, values, notes=(cell.note,) if cell.note else ())


def summarise_folder(folder: Path, name: str | None = None) -> Summary:
    """Summarise one run folder; a run that cannot be read becomes a row that says so.

    Parameters
    ----------
    folder
        A run folder.
    name
        How the report calls it; by default the folder's name.
    """
    name = name or folder.name
    mark = kept.stamp(folder)
    before = kept.load(folder, "summary", mark)
    if before is not None:
        return _from_kept(folder, name, before)
    run, why = attempt(lambda: read_run(folder), folder)
    known = None
    if run is not None:
        found, why = attempt(lambda: summarise(run, name), folder)
        if found is not None:
            as_kept = asdict(found) | {"folder": str(folder)}
            # What JSON would make something else of is not kept.
            if attempt(lambda: _from_kept(folder, name, json.loads(json.dumps(as_kept))), folder)[0] == found:
                kept.save(folder, "summary", mark, as_kept)
            return found
        known, _ = attempt(lambda: (_identity(run), _settings(run), _about(run)), folder)
    identity, settings, about = known or ({}, {}, {})
    values = {"run": name, **identity, "status": "unreadable"}
    return Summary(folder, values, notes=(why or "",), config=settings, about=about)


def _from_kept(folder: Path, name: str, content: dict[str, Any]) -> Summary:
    """The summary as it was kept, of a folder that may be called and be somewhere else now."""
    return Summary(
        **content
        | {
            "folder": folder,
            "values": {**content["values"], "run": name},
            "flows": tuple(content["flows"]),
            "notes": tuple(content["notes"]),
            "about": {**content["about"], "folder": str(folder.resolve())},
            "own": tuple(Quantity(**quantity) for quantity in content["own"]),
        }
    )


def summarise(run: Run, name: str | None = None) -> Summary:
    """Compute every quantity of one run.

    Parameters
    ----------
    run
        As read from disk; may still be going on.
    name
        How the report calls it; by default the folder's name.
    """
    own = definitions.own_columns(run)
    there = [column for column in dict.fromkeys((*_COLUMNS, *own)) if column in run.columns]
    metrics = run.table("metrics", there)
    present = [str(process) for process in metrics["process"].unique()]
    flows = tuple(process for process in present if definitions.is_flow(process))
    values: dict[str, Any] = {"run": name or run.folder.name, **_identity(run)}
    notes = _notes(run, metrics, flows)

    def of(process: str, column: str) -> pd.Series:
        return definitions.series(metrics, process, column)

    discrete = "discrete" if "discrete" in present else "midpoint"
    loss = of(discrete, "loss")
    grad = of(discrete, "grad_norm_sq")
    values["steps"] = None if metrics.empty else int(metrics["step"].max()) + 1
    if run.status == "done" and _stopped(metrics, "discrete") is not None:
        values["status"] = "diverged"
    values["final_loss"] = _last(loss)
    values["final_test_accuracy"] = _last(of(discrete, "test_accuracy"))

    witness = next((p for p in ("central", "midpoint", "discrete") if p in present), None)
    branch = _branch(run, metrics, flows)
    # Those that follow S_eff as it changes.
    moving = [flow for flow in flows if flow not in definitions.COMPANIONS]
    edge = onset = None
    if witness:
        edge = definitions.edge_step(of(witness, "effective_sharpness"), branch)
        onset = definitions.onset(metrics, branch, edge)
        critical = _last(of(witness, "num_critical"))
        values |= {"edge_step": edge, "onset": onset}
        values["num_critical"] = None if critical is None else int(critical)
        values["burst_number"], told = bursts.of(run, metrics, edge, flows)
        notes += told
        if edge is not None:
            real = "midpoint" if "midpoint" in present else discrete
            values["s_eff"] = _mean_from(of(real, "effective_sharpness"), edge)
            for flow in flows:
                values[f"s_eff_{flow}"] = _mean_from(of(flow, "effective_sharpness"), edge)

    distances = {flow: of(flow, "distance_to_discrete") for flow in flows}
    # Before the optimizer oscillates, all flows follow it alike and their errors are rounding.
    start = math.inf if onset is None else onset
    for flow in flows:
        values[f"final_loss_{flow}"] = _last(of(flow, "loss"))
        values[f"distance_{flow}"] = definitions.mean_distance(distances[flow])
        for what, column, measured in (("loss", "loss", loss), ("grad", "grad_norm_sq", grad)):
            predicted = definitions.prediction(metrics, flow, column)
            values[f"{what}_error_{flow}"] = definitions.relative_error(measured, predicted, start)
        if "stable" in flows and flow != "stable":
            ratio = definitions.distance_ratio(distances[flow], distances["stable"], start)
            values[f"distance_ratio_{flow}"] = ratio
            notes += _unequal(flow, distances)
    if moving and _stopped(metrics, "discrete") is None:
        sharpness = of("central" if "central" in flows else moving[0], "effective_sharpness")
        notes += _stage(run, sharpness, branch, edge, onset, values["steps"])
    values = {name: definitions.last_value(metrics, name) for name in own} | values
    known = {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in values.items()
    }
    return Summary(
        run.folder,
        known,
        flows,
        tuple(notes),
        _settings(run),
        _about(run),
        tuple(map(definitions.own_quantity, own.values())),
    )


def names_of(folders: Sequence[Path]) -> list[str]:
    """Shortest names that tell runs apart: their paths below the deepest folder they share.

    Examples
    --------
    >>> names_of([Path("outputs/a/0"), Path("outputs/a/1"), Path("outputs/b")])
    ['a/0', 'a/1', 'b']
    """
    resolved = [folder.resolve() for folder in folders]
    if len(resolved) == 1:
        return [resolved[0].name]
    shared = 0
    for level in zip(*(folder.parts[:-1] for folder in resolved)):
        if len(set(level)) > 1:
            break
        shared += 1
    return [str(Path(*folder.parts[shared:])) for folder in resolved]


def _identity(run: Run) -> dict[str, Any]:
    """What was run, as far as manifest and config tell, and how it ended."""
    manifest, config = run.manifest, run.config
    choices = manifest.get("choices") or manifest

    def chosen(group: str) -> str | None:
        node = config.get(group)
        target = node.get("_target_") if isinstance(node, Mapping) else None
        name = choices.get(group) or (str(target).rsplit(".", 1)[-1] if target else None)
        return name if isinstance(name, str) else None

    lr = config.get("lr", manifest.get("lr"))
    return {
        "optimizer": chosen("optimizer"),
        "lr": lr if isinstance(lr, int | float) or lr is None else str(lr),
        "model": chosen("model"),
        "data": chosen("data"),
        "loss_function": chosen("loss"),
        "seed": config.get("seed", manifest.get("seed")),
        "dtype": manifest.get("dtype", config.get("dtype")),
        "num_parameters": manifest.get("num_parameters"),
        "status": run.status,
        "wall_seconds": manifest.get("wall_seconds"),
    }


def _settings(run: Run) -> dict[str, Any]:
    """The config with dotted keys, lists as text; a schedule by its name, which the config itself does not have."""
    flat, choices = flatten(run.config), run.manifest.get("choices") or {}
    settings = {key: str(value) if isinstance(value, list | dict) else value for key, value in flat.items()}
    return settings | {key: choices[key] for key in ("schedule",) if key in choices}


def _about(run: Run) -> dict[str, str]:
    """How a run came about, in the words of a reader."""
    manifest = run.manifest
    counts = manifest.get("counts") or {}
    spent = [
        f"{process}: "
        + ", ".join(f"{number} {what.replace('_', ' ')}" for what, number in of.items() if number)
        for process, of in counts.items()
    ]
    about = {
        "command": manifest.get("command_line"),
        "folder": str(run.folder.resolve()),
        "where and when": ", ".join(
            str(manifest[key]) for key in ("host", "device", "started") if manifest.get(key)
        ),
        "tags": ", ".join(manifest.get("tags") or ()),
        "notes": manifest.get("notes"),
        "data": manifest.get("data_description"),
        "spent": "; ".join(text for text in spent if not text.endswith(": ")),
        "versions": ", ".join(
            f"{name} {version}" for name, version in (manifest.get("versions") or {}).items()
        ),
        "commit": manifest.get("git_commit"),
    }
    return {heading: str(text) for heading, text in about.items() if text}


def _number(text: str) -> Any:
    """The value of an override, as far as a report must know it: a number is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"null": None, "true": True, "false": False}.get(text, text)


def _stopped(metrics: pd.DataFrame, process: str) -> int | None:
    """The step at which a process stopped before its time; None if it did not."""
    stops = [status.label for status in Status if status.stops]
    rows = metrics[(metrics["process"] == process) & metrics["status"].isin(stops)]
    return int(rows["step"].min()) if len(rows) else None


def _branch(run: Run, metrics: pd.DataFrame, flows: Sequence[str]) -> int:
    """Step from which all flows are there: a linearised network may be from the start."""
    first = [metrics.loc[metrics["process"] == flow, "step"].min() for flow in flows]
    return max([int(run.manifest.get("warm_start") or 0), *map(int, first)])


def _notes(run: Run, metrics: pd.DataFrame, flows: Sequence[str]) -> list[str]:
    notes = []
    wanted = run.config.get("steps", run.manifest.get("steps"))
    reached = 0 if metrics.empty else int(metrics["step"].max()) + 1
    progress = f"{reached} of {wanted} steps" if wanted else f"{reached} steps"
    if run.status == "killed":
        notes.append(f"killed: its process is gone, after {progress}")
    elif run.status != "done":
        reason = run.manifest.get("reason")
        notes.append(f"{run.status} after {progress}" + (f": {reason}" if reason else ""))
    complaints = metrics[metrics["status"] != Status.OK.label]
    for (process, label), rows in complaints.groupby(["process", "status"], observed=True, sort=False):
        status = next((status for status in Status if status.label == label), None)
        sentence = status.sentence if status else str(label)
        if status is not None and status.stops:
            notes.append(f"{process} stopped at step {int(rows['step'].min())}: {sentence}")
        else:
            of_all = int((metrics["process"] == process).sum())
            notes.append(f"{process}: {label} at {len(rows)} of {of_all} steps: {sentence}")
    # That the optimizer itself stopped explains the others.
    notes.sort(key=lambda note: not note.startswith("discrete stopped"))
    for flow in flows:
        if metrics.loc[metrics["process"] == flow, "distance_to_discrete"].isna().all():
            notes.append(f"{flow}: its distance from the optimizer was not recorded")
    return notes


def _unequal(flow: str, distances: Mapping[str, pd.Series]) -> list[str]:
    """Say over which steps two flows were compared if one of them stopped earlier."""
    ends = {name: int(distances[name].index[-1]) for name in (flow, "stable") if not distances[name].empty}
    if len(set(ends.values())) < 2:
        return []
    last = min(ends.values())
    first = max(last - definitions.TAIL + 1, 0)
    return [f"{flow} / stable compares steps {first} to {last}, the last that both reached"]


def _stage(
    run: Run, sharpness: pd.Series, branch: int, edge: int | None, onset: int | None, steps: int
) -> list[str]:
    """Say how far a run has come: above the edge at its start, at the edge, oscillating, long enough to compare.

    Parameters
    ----------
    run
        For its kicks.
    sharpness
        S_eff along the central flow, or whichever there is.
    branch, edge, onset, steps
        Steps at which the flows branch off, the edge is reached, the oscillation begins; steps recorded.
    """
    notes = []
    if len(sharpness) and float(sharpness.iloc[0]) > definitions.ABOVE:
        notes.append(
            f"starts above the edge: S_eff is {float(sharpness.iloc[0]):.3g} where the flows branch off, at step "
            f"{branch}; they assume an oscillation at rest, so count what follows once S_eff is down at 2 (or raise "
            "warm_start)"
        )
    kick = "" if (run.config.get("kick") or 0) >= _USUAL_KICK else f", or kick={_USUAL_KICK:g}"
    if onset is None and edge is not None:
        notes.append(
            f"S_eff reached 2 at step {edge}; the optimizer has not begun to oscillate by {steps}, so there is nothing "
            f"to compare yet: more steps{kick}"
        )
    elif onset is None and len(sharpness):
        notes.append(
            f"S_eff is {float(sharpness.iloc[-1]):.3g} at step {steps}, below the edge of stability at 2: the "
            "optimizer does not oscillate and there is nothing to compare yet; more steps, or a larger lr"
        )
    elif onset is not None and steps - onset <= smoothing.WINDOW // 2:
        notes.append(
            f"the optimizer oscillates from step {onset} on; its loss is compared once that has lasted "
            f"{smoothing.WINDOW // 2} steps: more steps"
        )
    return notes


def _last(values: pd.Series) -> float | None:
    return float(values.iloc[-1]) if len(values) else None


def _mean_from(values: pd.Series, step: int) -> float:
    return float(values[values.index >= step].mean())
