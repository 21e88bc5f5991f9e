"""What the figures take from runs: series, spectra, and the numbers that they draw and claim."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cflow_cli.report import definitions, smoothing
from cflow_cli.storage import Run

NUMERICAL_ZERO = 1e-5
"""Eigenvalues of Σ below this part of its largest count as zero."""

_DIRECTIONS = 3


class Direction(NamedTuple):
    """One eigenvector of Σ: its place, the smoothed squared displacement along it, the predicted variance."""

    place: int
    measured: pd.Series
    predicted: pd.Series

    @property
    def middle(self) -> int:
        """Step in the middle of its time."""
        return (int(self.predicted.index[0]) + int(self.predicted.index[-1])) // 2

    @property
    def ratio(self) -> float:
        """Mean predicted over mean measured variance since the middle of its time."""
        # Real oscillations swell and fade together over more than the steps of a moving mean: over all that is there.
        both = since(self.predicted, self.middle).index.intersection(self.measured.index)
        return self.predicted[both].mean() / self.measured[both].mean()


@dataclass(frozen=True)
class FigureRun:
    """A run as figures ask it.

    Parameters
    ----------
    run
        The run on disk.
    """

    run: Run

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config."""
        return self.run.config

    @property
    def lr(self) -> float:
        """η, where it is constant."""
        return float(self.config["lr"])

    @property
    def branch_point(self) -> int:
        """Step at which the flows start."""
        return int(self.run.manifest.get("warm_start") or 0)

    def series(self, process: str, column: str) -> pd.Series:
        """One column of one process against step."""
        return definitions.series(self.run.metrics, process, column)

    def smoothed(self, process: str, column: str) -> pd.Series:
        """The centred mean over ``smoothing.WINDOW`` steps of a :meth:`series`."""
        return smoothing.smoothed(self.series(process, column))

    def prediction(self, process: str = "central") -> pd.Series:
        """A flow's prediction of the optimizer's mean loss."""
        return definitions.prediction(self.run.metrics, process)

    def error(self, column: str, process: str = "central", start: int | None = None) -> float:
        """The report's error of a flow's prediction, ``definitions.relative_error``, from the oscillation's onset on.

        Parameters
        ----------
        column
            ``loss`` or ``grad_norm_sq``.
        process
            The flow.
        start
            First step to compare at, where it is another one.
        """
        return definitions.relative_error(
            self.series("discrete", column),
            definitions.prediction(self.run.metrics, process, column),
            self.onset if start is None else start,
        )

    def spectrum(self, process: str, kind: str = "effective") -> pd.DataFrame:
        """The values of one kind (see ``records.KINDS``) of one process: a row per step, columns counted from 0.

        That is the index of an eigenvalue, largest first; watched weights come in the order of their positions.
        """
        table = self.run.eigenvalues
        rows = table[(table["process"] == process) & (table["kind"] == kind)]
        wide = rows.pivot_table(index="step", columns="index", values="value", observed=True)
        if wide.empty:
            return wide
        wide.columns = pd.RangeIndex(wide.shape[1])
        # What is tracked changes from step to step, and lines must not bridge the gaps.
        spacing = max(int(np.gcd.reduce(np.diff(wide.index))), 1) if len(wide) > 1 else 1
        return wide.reindex(range(int(wide.index[0]), int(wide.index[-1]) + 1, spacing))

    def second_moment(self, process: str) -> pd.Series:
        """ν̂ of Scalar RMSProp, bias-corrected where the run's is: (η/D − ε)², as D = η/(√ν̂ + ε)."""
        step_size = self.series(process, "effective_step_size")
        eps = float(self.config["optimizer"]["eps"])
        return (self.series(process, "learning_rate")[step_size.index] / step_size - eps) ** 2

    def watched_moments(self, process: str, kind: str = "effective_step_size") -> pd.DataFrame:
        """ν̂ of RMSProp at the watched weights, (η/D − ε)²: a row per measurement, a column per weight.

        Parameters
        ----------
        process
            The optimizer or a flow.
        kind
            ``effective_step_size``, or ``stationary_step_size`` for that at rest, ν̄.
        """
        # The program for the stationary one neglects ε.
        eps = float(self.config["optimizer"]["eps"]) if kind == "effective_step_size" else 0.0
        return (self.lr / self.spectrum(process, kind).dropna() - eps) ** 2

    def edge_step(self, process: str = "central") -> int | None:
        """Step at which a process reaches the edge of stability, from the branch point of the flows on.

        None where it never does.
        """
        return definitions.edge_step(self.series(process, "effective_sharpness"), self.branch_point)

    @cached_property
    def edge(self) -> int:
        """Step at which the central flow reaches the edge of stability; where it never does, the last one."""
        found = self.edge_step()
        return int(self.series("central", "effective_sharpness").index[-1]) if found is None else found

    @cached_property
    def onset(self) -> int:
        """Step from which the optimizer oscillates, the report's ``onset``; where it never does, the last one."""
        found = definitions.onset(self.run.metrics, self.branch_point, self.edge_step())
        return int(self.series("discrete", "loss").index[-1]) if found is None else found

    def times_nearer(self, near: str = "central", far: str = "stable") -> float:
        """How many times nearer one flow is to the optimizer than another, at the end (see ``definitions``)."""
        ratio = definitions.distance_ratio(
            *(self.series(flow, "distance_to_discrete") for flow in (near, far))
        )
        return 1 / ratio if ratio > 0 else float("nan")

    def directions(self, scale: float = 1.0) -> list[Direction]:
        """Measured and predicted variances along the eigenvectors of Σ, those whose oscillation lasts a window.

        Parameters
        ----------
        scale
            Factor on what is recorded, which is in the D^-1 norm, in units of the loss; D = η makes it weight².
        """
        measured, predicted = (self.spectrum("central", kind) * scale for kind in ("sigma_measured", "sigma"))
        found = []
        for place in predicted.columns[:_DIRECTIONS]:
            sigma = predicted[place].dropna()
            sigma = sigma[sigma > NUMERICAL_ZERO * predicted[0].max()]
            if len(sigma) > smoothing.WINDOW:
                found.append(Direction(place, smoothing.smoothed(measured[place].dropna()), sigma))
        return found


def since(values: pd.Series | pd.DataFrame, step: float) -> Any:
    """The part of a series from a step on."""
    return values[values.index >= step]


def until(values: pd.Series | pd.DataFrame, step: float) -> Any:
    """The part of a series up to a step, included."""
    return values[values.index <= step]


def median_ratio(measured: pd.Series, predicted: pd.Series) -> float:
    """Median over the steps both have of predicted / measured."""
    both = measured.index.intersection(predicted.index)
    return float((predicted[both] / measured[both]).median()) if len(both) else float("nan")


def late_mean(values: pd.Series, step: int) -> float:
    """Mean over the last half of what follows a step; NaN where hardly anything does."""
    after = since(values, step).dropna()
    return float(after.iloc[len(after) // 2 :].mean()) if len(after) > 1 else float("nan")
