"""What every reported number means: one place for tables, figures and claims.

All series are pandas Series indexed by step; NaN is "not measured". Flows are the processes other
than the optimizer itself and its midpoints. A flow has rows from its branch point on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cflow_cli import records
from cflow_cli.report.smoothing import WINDOW, smoothed
from cflow_cli.report.tables import Column
from cflow_cli.storage import Run

EDGE = 1.98
"""S_eff from which a process counts as being at the edge of stability, whose place is 2."""

PERSISTENCE = 5
"""Measurements in a row that have to hold: a single spike is no onset."""

OSCILLATING = 0.5
"""Part of the optimizer's squared gradient that is oscillation, from which on it counts as oscillating."""

ABOVE = 2.1
"""S_eff from which a flow counts as starting above the edge: what it comes down by in a step lies between."""

TAIL = 50
"""Steps at the end over which distances are averaged."""

BURSTS = 0.5
"""Burst number from which an optimizer with a momentum leaves what the central flow can describe."""

OBSERVED = ("discrete", "midpoint")
"""Processes that are the real optimizer; every other process is a flow."""


COMPANIONS = ("linear", "minibatch")
"""Runs of the optimizer itself on another loss, which follow S_eff as theirs changes, not as the optimizer's does."""

AT_REST = ("stable", *COMPANIONS)
"""Models without an oscillation: no step of theirs holds S_eff at 2, and of their spectrum the largest is followed."""

_NAMES = {
    "discrete": "optimizer",
    "midpoint": "midpoints",
    "linear": "linearised network",
    "minibatch": "mini-batches",
}
_ADJECTIVES = {"two_phase": "two-phase"}


def is_flow(process: str) -> bool:
    """Whether a process is a model of the optimizer rather than the optimizer itself."""
    return process not in OBSERVED


def words(process: str) -> str:
    """What a process is called in legends and in the meaning of a column."""
    return _NAMES.get(process, f"{_ADJECTIVES.get(process, process)} flow")


def series(metrics: pd.DataFrame, process: str, column: str) -> pd.Series:
    """One column of one process against step, without the steps where it was not measured.

    Parameters
    ----------
    metrics
        The metrics table of a run.
    process, column
        What to take; empty if the run has no such process, or has not measured it.
    """
    if column not in metrics:
        return pd.Series(dtype=float, index=pd.Index([], dtype=int))
    # Arrays, not data frames: a report on hundreds of runs takes some ten thousand of these.
    values = metrics[column].to_numpy(float)
    chosen = (metrics["process"] == process).to_numpy() & ~np.isnan(values)
    return pd.Series(values[chosen], index=metrics["step"].to_numpy(int)[chosen]).sort_index()


def edge_step(effective_sharpness: pd.Series, start: int = 0) -> int | None:
    """Step of reaching the edge of stability.

    The first step from ``start`` on at which S_eff ≥ 1.98 and stays there for five measurements in a
    row (or for all that are left).

    Parameters
    ----------
    effective_sharpness
        S_eff against step; of the central flow where there is one, else of the midpoints, else of
        the optimizer itself.
    start
        Branch point of the flows: before it an adaptive optimizer's D may be infinite.

    Examples
    --------
    >>> edge_step(pd.Series([1.0, 2.5, 1.5, 1.99, 2.0, 2.0, 2.0, 2.0]))  # the spike at step 1 is none
    3
    """
    return _first_to_stay(effective_sharpness.dropna() >= EDGE, start)


def oscillating_share(metrics: pd.DataFrame) -> pd.Series:
    """Part of the optimizer's squared gradient that is oscillation, 1 − ‖∇L(w*)‖² / ‖∇L(w)‖².

    w* is the midpoint (w₋ + 2w + w₊)/4 of three iterates, in which an oscillation of period 2 cancels. Well below the
    edge both gradients are the same; at the edge most of the optimizer's belongs to directions that it oscillates in.

    Parameters
    ----------
    metrics
        The metrics table of a run; empty without rows of the optimizer and of its midpoints.
    """
    whole, smooth = (series(metrics, process, "grad_norm_sq") for process in OBSERVED)
    both = whole.index.intersection(smooth.index)
    return 1 - smooth[both] / whole[both]


def onset(metrics: pd.DataFrame, start: int = 0, edge: int | None = None) -> int | None:
    """Step from which the optimizer oscillates, as measured on itself.

    The first step from ``start`` on at which half of its squared gradient or more is oscillation
    (:func:`oscillating_share`) and stays so for five steps in a row (or for all that are left). Before it, every flow
    follows the optimizer alike and there is nothing to compare.

    Parameters
    ----------
    metrics
        The metrics table of a run.
    start
        Branch point of the flows.
    edge
        Step of reaching the edge of stability: it stands in where the run has no midpoints and cannot tell.
    """
    share = oscillating_share(metrics)
    return edge if share.empty else _first_to_stay(share >= OSCILLATING, start)


def _first_to_stay(holds: pd.Series, start: int) -> int | None:
    """The first index from ``start`` on from which something holds for ``PERSISTENCE`` entries, or to the end."""
    own = holds[holds.index >= start]
    if len(own) == 0:
        return None
    padded = np.append(own.to_numpy(bool), np.ones(PERSISTENCE - 1, bool))
    held = np.lib.stride_tricks.sliding_window_view(padded, PERSISTENCE).all(axis=1)
    return int(own.index[np.argmax(held)]) if held.any() else None


def prediction(metrics: pd.DataFrame, process: str, column: str = "loss") -> pd.Series:
    """A flow's prediction of the optimizer's time average.

    Its ``predicted_…`` column where it has one, else its own value: a flow without oscillation,
    such as the stable flow, predicts its own loss.
    """
    predicted = series(metrics, process, f"predicted_{column}")
    return series(metrics, process, column) if predicted.empty else predicted


def relative_error(
    measured: pd.Series, predicted: pd.Series, start: float = 0, window: int = WINDOW
) -> float:
    """Median over steps of |p̄ − ȳ| / |ȳ|, measured y and predicted p smoothed alike.

    A mean over a window contains the window's convexity: of one of the two alone, that would be counted as an error.

    Parameters
    ----------
    measured
        The optimizer's own quantity at every step.
    predicted
        The flow's prediction; exists from its branch point on and until it stopped. Compared at the
        steps that have both.
    start
        First step to compare at: where the optimizer begins to oscillate.
    window
        Even number of steps smoothed over.

    Returns
    -------
    float
        NaN when there is no step to compare at.
    """
    reference, own = smoothed(measured, window), smoothed(predicted, window)
    both = reference.index.intersection(own.index)
    both = both[both >= start]
    error = (own[both] - reference[both]).abs() / reference[both].abs()
    return float(error.median()) if len(error) else float("nan")


def mean_distance(distance: pd.Series, last: int | None = None, start: float = 0) -> float:
    """Mean of a distance over the last 50 steps up to ``last`` (included; by default where it ends).

    Steps before ``start`` are left out; NaN where nothing is left.
    """
    if distance.empty:
        return float("nan")
    end = distance.index[-1] if last is None else last
    tail = distance[(distance.index > end - TAIL) & (distance.index <= end) & (distance.index >= start)]
    return float(tail.mean())


def distance_ratio(distance: pd.Series, stable: pd.Series, start: float = 0) -> float:
    """Mean distance of a flow from the optimizer as a part of the stable flow's.

    Both averaged over the last 50 steps that both reached, so that a flow that stopped early is not
    compared with a later time of the other; not over steps before ``start``, where the optimizer begins to oscillate.
    """
    if distance.empty or stable.empty:
        return float("nan")
    last = min(distance.index[-1], stable.index[-1])
    far = mean_distance(stable, last, start)
    return mean_distance(distance, last, start) / far if far > 0 else float("nan")


@dataclass(frozen=True)
class Quantity(Column):
    """One column of the report; ``{}`` in its name, heading and meaning stands for a flow, in the meaning in words.

    Parameters
    ----------
    shown
        Whether the table has it when no metric is chosen.
    """

    shown: bool = True

    @property
    def is_number(self) -> bool:
        """Whether it can be averaged over runs."""
        return self.kind != "text" and self.name not in ("lr", "seed", "num_parameters")

    def of(self, flow: str) -> Quantity:
        """Return the column of one flow."""
        name, heading, meaning = (
            self.name.format(flow),
            self.heading.format(flow),
            self.meaning.format(words(flow)),
        )
        return replace(self, name=name, heading=heading, meaning=meaning)


_WITNESS = "central flow (else of the midpoints, else of the optimizer)"

QUANTITIES: tuple[Quantity, ...] = (
    Quantity("run", "run", "text", "folder of the run", wraps=True),
    Quantity("optimizer", "optimizer", "text", "optimizer"),
    Quantity("lr", "lr", "number", "learning rate, or the peak of its schedule"),
    Quantity("model", "model", "text", "model"),
    Quantity("data", "data", "text", "data set"),
    Quantity("loss_function", "loss function", "text", "loss function", shown=False),
    Quantity("seed", "seed", "count", "random seed"),
    Quantity("dtype", "dtype", "text", "precision of the weights", shown=False),
    Quantity("num_parameters", "weights", "count", "number of weights", shown=False),
    Quantity("steps", "steps", "count", "optimizer steps recorded"),
    Quantity("final_loss", "loss", "number", "training loss of the optimizer at its last recorded step"),
    Quantity("final_loss_{}", "loss {}", "number", "training loss L(w) of the {} at its last step"),
    Quantity(
        "final_test_accuracy", "test accuracy", "percent", "test accuracy at the last evaluation", shown=False
    ),
    Quantity(
        "edge_step",
        "edge at step",
        "count",
        f"first step from the flows' branch point on at which S_eff of the {_WITNESS} is at least {EDGE} "
        f"for {PERSISTENCE} measurements in a row",
    ),
    Quantity(
        "onset",
        "oscillates from",
        "count",
        "first step from the flows' branch point on from which the optimizer oscillates: half of its squared gradient "
        f"or more is gone at the midpoints, for {PERSISTENCE} steps in a row (without midpoints, the step of the edge)",
    ),
    Quantity(
        "num_critical",
        "critical",
        "count",
        f"effective eigenvalues at the edge at the end, of the {_WITNESS}",
    ),
    Quantity(
        "burst_number",
        "bursts",
        "number",
        "B = √(2 r κ ln(σ/ε)): logarithm of how much an oscillation grows per step in the first burst at the edge; the "
        f"central flow of a momentum is not to be believed from {BURSTS} on",
    ),
    Quantity(
        "s_eff",
        "S_eff optimizer",
        "number",
        "mean effective sharpness of the optimizer's midpoints (else of its iterates) from the step of the edge on; "
        "the edge is 2",
    ),
    Quantity(
        "s_eff_{}",
        "S_eff {}",
        "number",
        "mean effective sharpness of the {} from the step of the edge on",
    ),
    Quantity(
        "distance_{}",
        "distance {}",
        "number",
        f"‖w − w_discrete‖ of the {{}}, mean over the last {TAIL} steps it shares with the optimizer",
    ),
    Quantity(
        "distance_ratio_{}",
        "{} / stable",
        "number",
        "distance of the {} from the optimizer over that of the stable flow, both means over the last "
        f"{TAIL} steps that both flows reached, once the optimizer oscillates",
    ),
    Quantity(
        "floor",
        "floor",
        "number",
        "of runs that differ in kick_seed alone: distance at the last step of a run from the mean of the others, over "
        "that of the stable flow; no model that does not know the kicks can be expected below it",
    ),
    Quantity(
        "pair", "pair", "number", "the same from another run, a mean over them: what a simulation would reach"
    ),
    Quantity(
        "ens_{}",
        "{} / stable, mean run",
        "number",
        "the same of the {}, from the mean of all these runs instead",
    ),
    Quantity(
        "loss_error_{}",
        "loss error {}",
        "percent",
        "median of |predicted − measured| / measured loss over the steps from which the optimizer oscillates, both "
        f"smoothed alike: centred means over {WINDOW} steps, where all of them exist; a flow without oscillation "
        "predicts its own loss",
    ),
    Quantity(
        "grad_error_{}",
        "gradient error {}",
        "percent",
        "the same as the loss error, for the squared gradient norm of the {}",
        shown=False,
    ),
    Quantity(
        "status",
        "status",
        "text",
        "done, running, interrupted, failed, diverged (done, but the optimizer's own loss exploded), killed (its "
        "process is gone) or unreadable; of a cell of a sweep also pending, no_news, or missing (it never began). "
        "Reasons, and processes that stopped or did not converge, are in the notes",
    ),
    Quantity("wall_seconds", "time", "seconds", "wall time, compilation included"),
)


def own_columns(run: Run) -> dict[str, records.Column]:
    """Numeric columns that a run measured beyond ``records.METRICS``, with meaning and unit from its files."""
    return {name: column for name, column in run.columns.items() if is_own(column)}


def is_own(column: records.Column) -> bool:
    """Whether a column holds numbers that only some runs measure."""
    known = {usual.name for usual in records.METRICS}
    return column.name not in known and column.type.startswith(("int", "uint", "float"))


def own_quantity(column: records.Column) -> Quantity:
    """The column of the report that a run's own measurement has."""
    return Quantity(
        column.name,
        column.name,
        "number",
        f"{describe(column) or column.name}; of the optimizer (else of its midpoints, else of the first process "
        "that has it) at the last step where it was measured",
        shown=False,
    )


def describe(column: records.Column) -> str:
    """Meaning and unit of a column, in the words of the file that has it."""
    unit = f" ({column.unit})" if column.unit not in ("", "1") else ""
    return column.meaning + unit


def last_value(metrics: pd.DataFrame, column: str) -> float | None:
    """Value of a column at the last step where it was measured.

    It is the optimizer's where the optimizer has any, else that of its midpoints, else that of the first process
    that has one.
    """
    present = [str(process) for process in metrics["process"].unique()]
    for process in dict.fromkeys([*OBSERVED, *present]):
        values = series(metrics, process, column)
        if len(values):
            return float(values.iloc[-1])
    return None


def quantities(flows: Sequence[str], own: Sequence[Quantity] = ()) -> list[Quantity]:
    """List the columns of a report on runs with these flows, in their order.

    Parameters
    ----------
    flows
        Flows of any of the runs.
    own
        Measurements that only these runs have; they come before the status.
    """
    columns = []
    for quantity in QUANTITIES:
        if "{}" not in quantity.name:
            columns.append(quantity)
            continue
        for flow in flows:
            # The stable flow is what others are compared with, and it does not stay at the edge.
            if quantity.name in ("distance_ratio_{}", "ens_{}") and (
                flow == "stable" or "stable" not in flows
            ):
                continue
            if quantity.name == "s_eff_{}" and flow in AT_REST:
                continue
            columns.append(quantity.of(flow))
    names = [column.name for column in columns]
    place = names.index("status")
    columns[place:place] = [column for column in own if column.name not in names]
    return columns
