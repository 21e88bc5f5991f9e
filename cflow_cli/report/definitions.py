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
from cflow_cli.report.tables import Column
from cflow_cli.storage import Run

WINDOW = 50
"""Steps the smoothing averages over."""

EDGE = 1.98
"""S_eff from which a process counts as being at the edge of stability, whose place is 2."""

PERSISTENCE = 5
"""Measurements in a row that have to be at the edge: a single spike is no onset."""

TAIL = 50
"""Steps at the end over which distances are averaged."""

OBSERVED = ("discrete", "midpoint")
"""Processes that are the real optimizer; every other process is a flow."""


def is_flow(process: str) -> bool:
    """Whether a process is a model of the optimizer rather than the optimizer itself."""
    return process not in OBSERVED


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


def smoothed(values: pd.Series, window: int = WINDOW) -> pd.Series:
    """Centred moving average, only where the full window exists.

    s_t = (½ y_{t−w/2} + y_{t−w/2+1} + … + y_{t+w/2−1} + ½ y_{t+w/2}) / w for an even window w: centred
    on t, exact for straight lines, and free of any oscillation of period 2.

    Parameters
    ----------
    values
        One value per step; where a step is missing in a window, there is no average.
    window
        Even number of steps averaged over.

    Raises
    ------
    ValueError
        When the window is odd or not positive.

    Examples
    --------
    >>> smoothed(pd.Series([1.0, 3.0, 1.0, 3.0, 1.0]), window=2).tolist()  # blind to a period of 2
    [2.0, 2.0, 2.0]
    """
    if window < 2 or window % 2:
        raise ValueError(f"the smoothing window must be even and positive, got {window}")
    if values.empty or values.index[-1] - values.index[0] < window:
        return pd.Series(dtype=float, index=pd.Index([], dtype=int))
    full = values.reindex(range(values.index[0], values.index[-1] + 1))
    weights = np.full(window + 1, 1 / window)
    weights[[0, -1]] /= 2
    # Summed window by window, not by running sums, whose rounding would swamp losses that fall by decades.
    windows = np.lib.stride_tricks.sliding_window_view(full.to_numpy(), window + 1)
    half = window // 2
    return pd.Series(windows @ weights, index=full.index[half:-half]).dropna()


def onset(effective_sharpness: pd.Series, start: int = 0) -> int | None:
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
    >>> onset(pd.Series([1.0, 2.5, 1.5, 1.99, 2.0, 2.0, 2.0, 2.0]))  # the spike at step 1 is none
    3
    """
    values = effective_sharpness[effective_sharpness.index >= start].dropna()
    above = np.append(values.to_numpy() >= EDGE, np.ones(PERSISTENCE - 1, bool))
    if len(values) == 0:
        return None
    held = np.lib.stride_tricks.sliding_window_view(above, PERSISTENCE).all(axis=1)
    return int(values.index[np.argmax(held)]) if held.any() else None


def prediction(metrics: pd.DataFrame, process: str, column: str = "loss") -> pd.Series:
    """A flow's prediction of the optimizer's time average.

    Its ``predicted_…`` column where it has one, else its own value: a flow without oscillation,
    such as the stable flow, predicts its own loss.
    """
    predicted = series(metrics, process, f"predicted_{column}")
    return series(metrics, process, column) if predicted.empty else predicted


def relative_error(measured: pd.Series, predicted: pd.Series, window: int = WINDOW) -> float:
    """Median over steps of |predicted − smoothed| / smoothed.

    Parameters
    ----------
    measured
        The optimizer's own quantity at every step.
    predicted
        The flow's prediction; exists from its branch point on and until it stopped. Compared at the
        steps that have both.

    Returns
    -------
    float
        NaN when there is no step to compare at.
    """
    reference = smoothed(measured, window)
    both = reference.index.intersection(predicted.index)
    error = (predicted[both] - reference[both]).abs() / reference[both].abs()
    return float(error.median()) if len(error) else float("nan")


def mean_distance(distance: pd.Series, last: int | None = None) -> float:
    """Mean of a distance over the last 50 steps up to ``last`` (included; by default where it ends)."""
    if distance.empty:
        return float("nan")
    end = distance.index[-1] if last is None else last
    tail = distance[(distance.index > end - TAIL) & (distance.index <= end)]
    return float(tail.mean())


def distance_ratio(distance: pd.Series, stable: pd.Series) -> float:
    """Mean distance of a flow from the optimizer as a part of the stable flow's.

    Both averaged over the last 50 steps that both reached, so that a flow that stopped early is not
    compared with a later time of the other.
    """
    if distance.empty or stable.empty:
        return float("nan")
    last = min(distance.index[-1], stable.index[-1])
    far = mean_distance(stable, last)
    return mean_distance(distance, last) / far if far > 0 else float("nan")


@dataclass(frozen=True)
class Quantity(Column):
    """One column of the report; ``{}`` in its name, heading and meaning stands for a flow.

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
        name, heading, meaning = (text.format(flow) for text in (self.name, self.heading, self.meaning))
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
    Quantity("final_loss_{}", "loss {}", "number", "training loss L(w) of the {} flow at its last step"),
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
        "num_critical",
        "critical",
        "count",
        f"effective eigenvalues at the edge at the end, of the {_WITNESS}",
    ),
    Quantity(
        "s_eff",
        "S_eff",
        "number",
        "mean effective sharpness of the midpoints (else of the optimizer) from that step on; the edge is 2",
    ),
    Quantity("s_eff_{}", "S_eff {}", "number", "mean effective sharpness of the {} flow from that step on"),
    Quantity(
        "distance_{}",
        "distance {}",
        "number",
        f"‖w − w_discrete‖ of the {{}} flow, mean over the last {TAIL} steps it shares with the optimizer",
    ),
    Quantity(
        "distance_ratio_{}",
        "{} / stable",
        "number",
        "distance of the {} flow from the optimizer over that of the stable flow, both means over the last "
        f"{TAIL} steps that both flows reached",
    ),
    Quantity(
        "loss_error_{}",
        "loss error {}",
        "percent",
        "median of |predicted − smoothed| / smoothed loss over the steps of the {} flow; smoothed is the "
        f"centred mean of the optimizer's loss over {WINDOW} steps, where all of them exist; a flow without "
        "oscillation predicts its own loss",
    ),
    Quantity(
        "grad_error_{}",
        "gradient error {}",
        "percent",
        "the same as the loss error, for the squared gradient norm of the {} flow",
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
    known = {column.name for column in records.METRICS}
    return {
        name: column
        for name, column in run.columns.items()
        if name not in known and column.type.startswith(("int", "uint", "float"))
    }


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
            if quantity.name == "distance_ratio_{}" and (flow == "stable" or "stable" not in flows):
                continue
            if quantity.name == "s_eff_{}" and flow == "stable":
                continue
            columns.append(quantity.of(flow))
    names = [column.name for column in columns]
    place = names.index("status")
    columns[place:place] = [column for column in own if column.name not in names]
    return columns
