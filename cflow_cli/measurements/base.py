"""What every measurement has: its interval, its columns and kinds, and how a flow predicts its time average.

A measurement is a frozen dataclass of settings. The simplest is a function of the weights,

    value(problem, w) -> {"my_column": scalar, "my_kind": array of shape (m,)},

evaluated for every process at every ``every``-th step, missing between. One that looks at more (the gradient, the
optimizer's state, the step) overrides ``__call__``. With ``predicted`` a flow that oscillates with covariance Σ also
records what it predicts for the optimizer's time average,

    E[f(w + δ)] = f(w) + ½⟨∇²f(w), Σ⟩ + O(δ⁴) = f(w) + ½ Σ_a d²/dt² f(w + t z_a)|_{t=0},   Σ = Σ_a z_a z_aᵀ,

one second forward derivative of f for each direction in which it oscillates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from cflow_cli.records import Column

if TYPE_CHECKING:
    from jaxtyping import Array, Bool, Float, Int

    from cflow_cli.curvature.options import EigsOptions
    from cflow_cli.flows.base import Oscillation
    from cflow_cli.optimizers.operator_map import OperatorMap
    from cflow_cli.optimizers.update_map import UpdateMap
    from cflow_cli.problem import Linearization, Problem

Values = dict[str, Any]
PREDICTED = "predicted_"


class Setup(NamedTuple):
    """What a measurement may look at once, before the first step.

    Parameters
    ----------
    problem, optimizer, eigs
        Of the simulation.
    gradient
        ∇L(w₀), shape (n,).
    seed
        Of everything random.
    """

    problem: Problem
    optimizer: UpdateMap | OperatorMap
    eigs: EigsOptions
    gradient: np.ndarray
    seed: int


class Point(NamedTuple):
    """A process at the start of a step, as a measurement sees it.

    Parameters
    ----------
    problem, optimizer, eigs
        The loss, the update map, how eigenvalues are tracked.
    step, age
        Optimizer steps taken, and those since the process began.
    weights
        w, shape (n,); of the midpoints (w₋ + 2w + w₊)/4.
    linear
        L, ∇L and the Hessian at w.
    step_size, step_sizes
        D of the step that starts here, shape (n,) or (1,), and that of every weight, shape (n,); NaN where D is an
        operator.
    values, vectors
        Tracked eigenvalues of D^½ H D^½, largest first, shape (block,), and their eigenvectors, shape (block, n). Those
        of the optimizer and its midpoints are a power step ahead and not normalised. Where D is an operator, directions
        u = Dz with zᵀu = 1.
    moments
        Second moments of the optimizer's state (its even leaves), where the measurement asks for them.
    move
        Step taken from here, w₊ − w.
    drift
        The same without the alternating part: of the optimizer and its midpoints (w₊ − w₋)/2, of a flow ``move``.
    smooth_drift
        Called without arguments: what the drift would be without an oscillation, by the optimizer's map; NaN along the
        iterates of an optimizer with momentum, of which it is not known.
    optimizer_state
        Averaged state of a flow's optimizer, its counters at the start of the step; None for the optimizer.
    is_optimizer, oscillates
        Whether this is the optimizer's own iterate, or a flow that oscillates.
    oscillation
        What a flow predicts; None for the optimizer.
    critical
        Directions in which the flow oscillates.
    """

    problem: Problem
    optimizer: UpdateMap | OperatorMap
    eigs: EigsOptions
    step: Int[Array, ""]
    age: Int[Array, ""]
    weights: Float[Array, " params"]
    linear: Linearization
    step_size: Float[Array, " params_or_1"]
    step_sizes: Float[Array, " params"]
    values: Float[Array, " block"]
    vectors: Float[Array, "block params"]
    moments: tuple[Array, ...]
    move: Float[Array, " params"]
    drift: Float[Array, " params"]
    smooth_drift: Callable[[], Float[Array, " params"]]
    optimizer_state: Any
    is_optimizer: Bool[Array, ""] | bool
    oscillates: Bool[Array, ""] | bool
    oscillation: Oscillation | None = None
    critical: Int[Array, ""] | int = 0


class Measured(NamedTuple):
    """What one evaluation brought.

    Parameters
    ----------
    values
        Scalars by column, arrays of shape (m,) by kind.
    memory
        What the next evaluation starts from, of the same shapes as before.
    gradients, hvps, third_derivatives
        What was spent.
    """

    values: Values
    memory: Any = ()
    gradients: Any = 0
    hvps: Any = 0
    third_derivatives: Any = 0


@dataclass(frozen=True)
class Measurement:
    """Base of all measurements; a subclass is a frozen dataclass too, so that its settings can be part of a program.

    Parameters
    ----------
    every
        Optimizer steps between two evaluations.
    """

    every: int = 10

    name: ClassVar[str]
    columns: ClassVar[tuple[Column, ...]] = ()
    """Columns of the metrics that it writes, with unit and meaning."""
    kinds: ClassVar[Mapping[str, str]] = {}
    """Kinds of the long table that it writes, with their meaning."""
    predicted: ClassVar[bool] = False
    """Whether flows record a prediction of its time average; :meth:`value` must be differentiable twice then."""
    at_end: ClassVar[bool] = False
    """Whether the last step is measured too, whatever ``every`` says."""
    optimizer_only: ClassVar[bool] = False
    """Whether only the optimizer's own iterates are measured."""
    oscillating_only: ClassVar[bool] = False
    """Whether only flows that oscillate are measured."""
    from_branch_point: ClassVar[bool] = False
    """Whether ``every`` counts from where a process began instead of from step 0."""
    needs_moments: ClassVar[bool] = False
    """Whether the optimizer's second moments are wanted at every step."""

    def __post_init__(self) -> None:
        """Check what no type can say."""
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")

    # --- what a subclass says -----------------------------------------------------------------------

    def value(self, problem: Problem, w: Float[Array, " params"]) -> Values:
        """The measured quantities as a function of the weights: scalars by column, arrays (m,) by kind."""
        raise NotImplementedError(f"{type(self).__name__} must have value(problem, w) or its own __call__")

    def __call__(self, point: Point, fixed: Any, memory: Any) -> Measured:
        """Measure at a point; by default :meth:`value` of its weights.

        Parameters
        ----------
        point
            Where.
        fixed
            From :meth:`prepare`.
        memory
            From :meth:`start`, then from the evaluation before.
        """
        return Measured(self.value(point.problem, point.weights), memory)

    def predict(self, point: Point, fixed: Any, values: Values) -> Values:
        """What a flow predicts for the time average of each measured value: f + ½⟨∇²f, Σ⟩."""
        # Configs are checked without JAX.
        from cflow_cli.measurements.averages import time_average

        return time_average(lambda w: self.value(point.problem, w), point, values)

    def prepare(self, setup: Setup) -> Any:
        """Arrays that are the same for the whole run, as a pytree."""
        return ()

    def start(self, problem: Problem, rows: Float[Array, "block params"]) -> Any:
        """Memory of the first evaluation, as a pytree of arrays; ``rows`` are random unit vectors."""
        return ()

    def interval(self, optimizer: UpdateMap | OperatorMap) -> int:
        """Steps between two evaluations; 1 where they cost nothing."""
        return self.every

    def indices(self, kind: str, fixed: Any) -> np.ndarray | None:
        """What the entries of a kind are called in the column ``index``; None where they count from 0."""
        return None

    # --- what an engine asks ------------------------------------------------------------------------

    def columns_for(self, processes: Sequence[str]) -> tuple[Column, ...]:
        """Columns that it writes in a run of these processes."""
        return self.columns

    def across(self, weights: Mapping[str, Float[Array, " params"]]) -> dict[str, Values] | None:
        """Columns of each process from the weights of all of them at one step; None where that is not measured."""
        return None

    @property
    def compares(self) -> bool:
        """Whether it measures :meth:`across` processes instead of along each."""
        return type(self).across is not Measurement.across

    def predictions(self) -> tuple[tuple[Column, ...], dict[str, str]]:
        """Columns and kinds of what flows predict."""
        if not self.predicted:
            return (), {}
        columns = tuple(
            replace(c, name=PREDICTED + c.name, meaning=f"flow's prediction of the time average of {c.name}")
            for c in self.columns
        )
        return columns, {PREDICTED + k: f"flow's prediction of the time average of {k}" for k in self.kinds}
