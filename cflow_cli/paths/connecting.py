"""From a problem and two of its points to the path between them, with what the loss does on it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cflow_cli.computing import beside_problem
from cflow_cli.errors import UserError, did_you_mean
from cflow_cli.models.units import Units
from cflow_cli.paths import curves, dropout
from cflow_cli.paths.fit import SAMPLES, Values, fitted, losses, values
from cflow_cli.paths.matching import match as match_units
from cflow_cli.problem import Problem

# Barriers below this part of the loss are rounding of float32.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Path:
    """A curve between two points and the losses on it; from :func:`connect`.

    Parameters
    ----------
    kind
        ``line``, ``bezier``, ``chain`` or ``dropout``.
    points
        Control points, shape (count, n), the first and the last of which are the ends.
    t, length
        Where the loss was measured, from 0 to 1, and the length of the curve up to there.
    values
        What was measured there.
    orders
        Where the units of the second end were put in another order: for each layer, which comes to each place.
    steps, gradients
        Of the fit of the curve; 0 where none is needed.
    seconds
        That all of it took.
    """

    kind: str
    points: Float[np.ndarray, "count params"]
    t: Float[np.ndarray, " points"]
    length: Float[np.ndarray, " points"]
    values: Values
    orders: Sequence[Int[np.ndarray, " units"]] | None = None
    steps: int = 0
    gradients: int = 0
    seconds: float = 0.0

    def at(self, t: float) -> Float[np.ndarray, " params"]:
        """The weights at one t from 0 to 1."""
        return curves.at(self.kind, self.points, t)

    @property
    def matched(self) -> bool:
        """Whether the units of the second end were put in another order."""
        return self.orders is not None

    @property
    def barrier(self) -> float:
        """max_t [L(w(t)) − (1 − t) L(a) − t L(b)], the loss above the chord; 0 where it is rounding."""
        loss = self.values.loss
        return self._rounded(np.max(loss - (1 - self.t) * loss[0] - self.t * loss[-1]))

    @property
    def excess(self) -> float:
        """max_t L(w(t)) − max(L(a), L(b)), the loss above the larger end; 0 where it is rounding."""
        loss = self.values.loss
        return self._rounded(np.max(loss) - max(loss[0], loss[-1]))

    def _rounded(self, value: float) -> float:
        loss = self.values.loss
        return 0.0 if value <= _ROUNDING * max(loss[0], loss[-1]) else float(value)

    @cached_property
    def bound(self) -> float | None:
        """Of a dropout path, the largest loss at its corners, which no point of it exceeds; None for other kinds."""
        corners = self.t * (len(self.points) - 1)
        is_corner = np.isclose(corners, np.round(corners))
        return float(self.values.loss[is_corner].max()) if self.kind == "dropout" else None

    @property
    def rows(self) -> dict[str, Any]:
        """Columns by name, a value for each t, as ``path.parquet`` has them; ``pandas.DataFrame(path.rows)``."""
        count = len(self.t)
        return {
            "kind": [self.kind] * count,
            "matched": [self.matched] * count,
            "t": self.t,
            "length": self.length,
            **self.values._asdict(),
        }

    @property
    def summary(self) -> dict[str, Any]:
        """The path in numbers, as ``path.json`` has them."""
        loss, distance = (
            self.values.loss,
            float(np.linalg.norm(self.points[-1].astype(float) - self.points[0])),
        )
        error = 1 - float(np.min(self.values.test_accuracy))
        return {
            "kind": self.kind,
            "matched": self.matched,
            "barrier": self.barrier,
            "excess": self.excess,
            "bound": self.bound,
            "min_loss": float(loss.min()),
            "max_loss": float(loss.max()),
            "max_test_error": None if math.isnan(error) else error,
            "distance": distance,
            "length_ratio": float(self.length[-1]) / distance if distance else 1.0,
            "steps": self.steps,
            "gradients": self.gradients,
            "seconds": self.seconds,
        }


@beside_problem
def connect(
    problem: Problem,
    a: Any,
    b: Any,
    kind: str = "bezier",
    *,
    match: bool = False,
    points: int = 61,
    steps: int = 300,
    lr: float = 0.01,
    seed: int = 0,
    refit: bool = True,
    halves: int = 20,
) -> Path:
    """Connect two points of a landscape and measure the loss on the way.

    ``line`` is straight. ``bezier``, w(t) = (1−t)² a + 2t(1−t) c + t² b, and ``chain``, two straight pieces that meet
    in c, have the c of least mean loss (Garipov et al., arXiv:1802.10026), on all examples and from (a + b)/2.
    ``dropout`` is not fitted at all: see :mod:`cflow_cli.paths.dropout`.

    Parameters
    ----------
    problem
        The landscape.
    a, b
        Its ends, shape (n,).
    kind
        ``line``, ``bezier``, ``chain`` or ``dropout``.
    match
        Whether the hidden units of b are first put in the order in which it is nearest to a; see
        :func:`cflow_cli.paths.matching.match`.
    points
        Where the loss is measured, evenly spaced in t; more where that takes all corners in.
    steps, lr
        Of Adam, for ``bezier`` and ``chain``.
    seed
        Of what is random: values of t, halves.
    refit, halves
        Of ``dropout``: whether half networks get the output layer of least loss, and of how many random halves the best
        are taken.

    Raises
    ------
    UserError
        If there is no such kind, the ends are not points of the landscape, the loss is not finite there, or the model's
        units are needed and not known.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> problem = Problem.from_function(lambda w: (w[0] ** 2 - 1) ** 2 + w[1] ** 2, jnp.array([1.0, 0.0]))
    >>> connect(problem, [-1.0, 0.0], [1.0, 0.0], "line").barrier
    1.0
    """
    if kind not in curves.KINDS:
        raise UserError(
            f"there is no path of the kind {kind!r}{did_you_mean(kind, curves.KINDS)}; "
            f"there are {', '.join(curves.KINDS)}"
        )
    began = time.monotonic()
    dtype = problem.w0.dtype
    a, b = (np.asarray(end, dtype) for end in (a, b))
    for end in (a, b):
        if end.shape != problem.w0.shape:
            raise UserError(
                f"an end has the shape {end.shape}, but a point of this landscape {problem.w0.shape}"
            )
    orders, spent = None, 0
    if match:
        b, orders = match_units(units_of(problem), a, b)
    if kind == "line":
        control = np.stack([a, b])
    elif kind == "dropout":
        if getattr(problem.places, "output", "linear") != "linear":
            raise UserError(
                "a dropout path is bounded because the loss is convex in the output layer, and this model has "
                f"model.output={problem.places.output} after it; choose another kind"
            )
        control = dropout.connected(
            problem, units_of(problem), a, b, refit=refit, trials=halves, seed=seed
        ).points
    else:
        spent = steps
        control = fitted(problem, kind, np.stack([a, (a + b) / 2, b]), steps=steps, lr=lr, seed=seed)
    t = curves.parameters(kind, len(control), points)
    measured = values(problem, control, curves.coefficients(kind, len(control), t))
    if not np.isfinite(measured.loss[[0, -1]]).all():
        raise UserError("the loss is not finite at an end, so there is no path to speak of")
    length = curves.lengths(kind, control, t)
    seconds = time.monotonic() - began
    return Path(kind, control, t, length, measured, orders, spent, spent * SAMPLES, seconds)


def units_of(problem: Problem) -> tuple[Units, ...]:
    """Places of the hidden units' weights in the flat vector.

    Raises
    ------
    UserError
        If they are not known.
    """
    places = problem.places
    if places is None:
        raise UserError("a problem from a function has no hidden units to match or to drop")
    units = getattr(places, "units", None)
    if units is None:
        raise UserError(
            f"no permutation of units is known for model={type(places).__name__.lower()}; it is for mlp, fc, "
            "deep_linear, cnn and plain_cnn, and without match=true and kind=dropout every model will do"
        )
    return units


@dataclass(frozen=True)
class Plane:
    """The loss on a plane through three points, a and b on its first axis.

    Parameters
    ----------
    x, y
        Coordinates of its grid, in the metric of the weights, from a in the origin.
    loss
        Shape (y, x).
    axes
        Two orthonormal directions, shape (2, n).
    origin
        a, shape (n,).
    """

    x: Float[np.ndarray, " x"]
    y: Float[np.ndarray, " y"]
    loss: Float[np.ndarray, "y x"]
    axes: Float[np.ndarray, "2 params"]
    origin: Float[np.ndarray, " params"]

    def project(self, weights: Float[np.ndarray, "points params"]) -> Float[np.ndarray, "points 2"]:
        """Coordinates of the nearest points of the plane."""
        return (weights.astype(float) - self.origin) @ self.axes.T


@beside_problem
def plane(
    problem: Problem, a: np.ndarray, b: np.ndarray, c: np.ndarray, *, size: int = 25, margin: float = 0.25
) -> Plane:
    """Measure the loss on the plane through a, b and c.

    Parameters
    ----------
    problem
        The landscape.
    a, b, c
        Points that are not on one line.
    size
        Points of the grid in each direction.
    margin
        Space around the three, in parts of their extent.
    """
    origin = np.asarray(a, float)
    first = np.asarray(b, float) - origin
    first /= np.linalg.norm(first)
    second = np.asarray(c, float) - origin
    second -= (second @ first) * first
    second /= np.linalg.norm(second)
    axes = np.stack([first, second])
    corners = np.stack([np.zeros(2), axes @ (b - origin), axes @ (c - origin)])
    low, high = corners.min(axis=0), corners.max(axis=0)
    space = margin * (high - low)
    x, y = (np.linspace(low[i] - space[i], high[i] + space[i], size) for i in (0, 1))
    grid = np.stack([np.ones((size, size)), *np.meshgrid(x, y)], axis=-1).reshape(-1, 3)
    loss = losses(problem, np.stack([origin, *axes]), grid).reshape(size, size)
    return Plane(x, y, loss, axes, origin)
