"""What a simulation is asked for: settings without JAX, so that a config is checked quickly.

A process answers for its kind with class attributes:

``name``
    What it is called in tables and configs.
``is_flow``
    Whether it is a flow: a model of the dynamics of an optimizer that has a D.
``branches``
    Whether it begins where flows branch off, after the warm start, instead of at step 0.
``first_step``
    The first step that it has a row for.
``switch``
    The one bit in which two kinds differ that share a compiled program: midpoint or iterate, oscillating or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from cflow_cli.curvature.options import EigsOptions
from cflow_cli.errors import UserError
from cflow_cli.flows.options import Ablated, Central, Edge, Rod, Stable, Stationary, TwoPhase
from cflow_cli.measurements import built_in
from cflow_cli.records import Column


@dataclass(frozen=True)
class Discrete:
    """The real optimizer: a plain optax loop, measured at every iterate."""

    name: ClassVar[str] = "discrete"
    is_flow: ClassVar[bool] = False
    branches: ClassVar[bool] = False
    first_step: ClassVar[int] = 0
    switch: ClassVar[bool] = False


@dataclass(frozen=True)
class Midpoint:
    """The oscillation-free view of the real optimizer, w* = (w₋ + 2w + w₊)/4, measured, not stepped."""

    name: ClassVar[str] = "midpoint"
    is_flow: ClassVar[bool] = False
    branches: ClassVar[bool] = False
    first_step: ClassVar[int] = 1  # the first iterate has none before it
    switch: ClassVar[bool] = True


@dataclass(frozen=True)
class Linear:
    """The same optimizer on the network linearised where it begins, f(a) + J(a)(w − a).

    Its equations are in :mod:`cflow_cli.engine.linear`.

    Parameters
    ----------
    anchor
        The weights a, and where it begins: ``start``, step 0, or ``branch``, where flows branch off.
    every
        Steps between two looks at its spectrum and at ``function_distance``, which cost more than a step.
    """

    anchor: str = "start"
    every: int = 50

    name: ClassVar[str] = "linear"
    is_flow: ClassVar[bool] = False
    first_step: ClassVar[int] = 0
    switch: ClassVar[bool] = False
    columns: ClassVar[tuple[Column, ...]] = (
        Column(
            "function_distance",
            "float64",
            "1",
            "‖f(w_discrete) − f_lin(w)‖ / ‖f(a) − y‖ over all training outputs; null between looks",
        ),
    )

    def __post_init__(self) -> None:
        """Check what no type can say."""
        if self.anchor not in ("start", "branch"):
            raise ValueError(f"anchor must be start or branch, got {self.anchor}")
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")

    @property
    def branches(self) -> bool:
        """Whether it begins where flows branch off."""
        return self.anchor == "branch"


@dataclass(frozen=True)
class Minibatch:
    """The same optimizer on mini-batches, from the start of the full-batch run.

    Its equations are in :mod:`cflow_cli.engine.minibatch`.

    Parameters
    ----------
    batch_size
        Examples in a batch.
    order
        ``epoch``: each example once before any comes again; ``chance``: each batch drawn anew.
    seed
        Of the batches.
    every
        Steps between two looks at the full batch's spectrum, which cost more than a step.
    """

    batch_size: int = 20
    order: str = "epoch"
    seed: int = 0
    every: int = 10

    name: ClassVar[str] = "minibatch"
    is_flow: ClassVar[bool] = False
    branches: ClassVar[bool] = False
    first_step: ClassVar[int] = 0
    switch: ClassVar[bool] = False
    columns: ClassVar[tuple[Column, ...]] = (
        Column("batch_loss", "float64", "loss", "loss of the mini-batch that the step is taken on"),
    )

    def __post_init__(self) -> None:
        """Check what no type can say."""
        if self.order not in ("epoch", "chance"):
            raise ValueError(f"order must be epoch or chance, got {self.order}")
        for name in ("batch_size", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


BUILT_IN: dict[str, Any] = {
    kind.name: kind
    for kind in (
        *(Discrete, Midpoint, Stable, Central, Ablated, Stationary, Rod, Edge, TwoPhase),
        *(Linear, Minibatch),
    )
}
"""Every process that comes with the package, by its name."""

DEFAULT_PROCESSES = ("discrete", "midpoint", "stable", "central")
DEFAULT_MEASUREMENTS = ("evaluation", "coordinates", "sharpness")


@dataclass(frozen=True)
class SimulationOptions:
    """All settings of a simulation but the problem, the optimizer and where it starts.

    Parameters
    ----------
    processes
        Names of :data:`BUILT_IN`, or options of processes; "discrete" is always run, and recorded if named.
    measurements
        What is measured along each process: names of :data:`cflow_cli.measurements.built_in.BUILT_IN`, or measurements.
    steps
        Optimizer steps.
    warm_start
        Steps of the optimizer before the flows branch off; by default 5 for adaptive optimizers, whose D is infinite
        at first, else 0.
    seed
        Of the starting vectors of the eigensolver, of the kicks and of the watched coordinates.
    kick_seed
        Of the kicks alone; by default ``seed``, whose kicks they are if it is the same number.
    eigs
        Eigenvalue tracking.
    kick
        Norm of a Gaussian kick added to the discrete weights at each step: in nearly exact arithmetic an oscillation
        starts from rounding errors, tens of steps late. 0 is the plain optax loop, to the bit.
    chunk
        Most steps per compiled call; by default as many as keep the path below 256 MB, at most 50. A call takes fewer
        where that many would last longer than a second; no result depends on it.
    pause_every
        A chunk ends at every multiple of this step, for checkpoints; None for wherever it suits.
    memory_gib
        Memory of the device that derivatives are to fit into, in GiB; None for what the device says that there is,
        which a CPU does not.

    Raises
    ------
    UserError
        If one is out of range, or a process or measurement is named twice or unknown.
    """

    processes: tuple[Any, ...] = DEFAULT_PROCESSES
    measurements: tuple[Any, ...] = DEFAULT_MEASUREMENTS
    steps: int = 500
    warm_start: int | None = None
    seed: int = 0
    eigs: EigsOptions = field(default_factory=EigsOptions)
    kick: float = 1e-3
    kick_seed: int | None = None
    chunk: int | None = None
    pause_every: int | None = None
    memory_gib: float | None = None

    def __post_init__(self) -> None:
        """Name processes by their options, and check what no type can say."""
        for what, known in (("processes", BUILT_IN), ("measurements", built_in.BUILT_IN)):
            members = tuple(_by_name(member, what, known) for member in getattr(self, what))
            object.__setattr__(self, what, members)
        if self.steps < 1:
            raise UserError(f"steps must be at least 1, got {self.steps}")
        if self.memory_gib is not None and not self.memory_gib > 0:
            raise UserError(f"memory_gib must be positive, got {self.memory_gib}")
        if self.kick < 0:
            raise UserError(f"kick must not be negative, got {self.kick}")
        for what, members in (("processes", self.processes), ("measurements", self.measurements)):
            names = [m.name for m in members]
            if len(set(names)) < len(names) or (what == "processes" and not names):
                raise UserError(
                    f"{what} must name each once{' and at least one' * (what == 'processes')}, got {names}"
                )
        if self.warm_start is not None and not 0 <= self.warm_start <= self.steps:
            raise UserError(f"warm_start must lie between 0 and steps={self.steps}, got {self.warm_start}")


_SINGULAR = {"processes": "process", "measurements": "measurement"}


def _by_name(member: Any, what: str, known: Mapping[str, Any]) -> Any:
    """A process or measurement, built with its defaults where only its name is given."""
    if not isinstance(member, str):
        return member
    if member not in known:
        raise UserError(f"unknown {_SINGULAR[what]} {member!r}; choose from {', '.join(known)}")
    return known[member]()
