"""What every flow has: its state, what a step finds out, and the interface of a stepper."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ..curvature.block import RitzPairs, gram
from ..optimizers.update_map import COUNTER, UpdateMap
from ..problem import Linearization, Problem
from ..records import Status


class FlowState(NamedTuple):
    """State of a flow.

    Parameters
    ----------
    weights
        w, shape (n,).
    optimizer
        Averaged optimizer state.
    vectors
        Orthonormal tracked eigenvectors of D^½ H D^½, shape (block, n).
    x
        X in their basis, shape (block, block); zero outside the critical directions.
    oscillates
        Whether X may be anything but zero; False makes any flow its stable limit, in the same compiled program.
    memory
        Whatever else the flow keeps, as its stepper's ``start`` made it.
    """

    weights: Float[Array, " params"]
    optimizer: Any
    vectors: Float[Array, "block params"]
    x: Float[Array, "block block"]
    oscillates: Bool[Array, ""]
    memory: Any = ()


class Oscillation(NamedTuple):
    """The oscillation around a flow, and the averages it predicts.

    Parameters
    ----------
    x
        X in the basis of the tracked eigenvectors, shape (block, block).
    loss, grad_norm_sq
        Predicted time averages of the optimizer's loss and squared gradient norm.
    gradient_variance
        diag(HΣH), shape (n,).
    residual
        Largest violated complementarity condition after scaling.
    """

    x: Float[Array, "block block"]
    loss: Float[Array, ""]
    grad_norm_sq: Float[Array, ""]
    gradient_variance: Float[Array, " params"]
    residual: Float[Array, ""]


class FlowStep(NamedTuple):
    """What a step found out about its starting point, and what it cost.

    ``extra`` has further columns of :data:`cflow_cli.records.METRICS`, those of which only this flow knows,
    and ``stationary_preconditioner``, shape (n,), of which the watched coordinates are recorded.
    """

    linear: Linearization
    pairs: RitzPairs
    preconditioner: Float[Array, " params_or_1"]
    oscillation: Oscillation
    gradients: Int[Array, ""]
    third_derivatives: Int[Array, ""]
    status: Int[Array, ""]
    extra: dict[str, Float[Array, ""]] | None = None


class Stepper(Protocol):
    """The step (w, s, V, X) ↦ (w', s', V', X') of a flow over a time ``dt``."""

    @property
    def optimizer(self) -> UpdateMap:
        """The update map that it follows."""

    def start(self, weights: Float[Array, " params"], block: int) -> Any:
        """``memory`` of the state at which the flow branches off, with ``block`` tracked directions.

        Arrays of it whose shape depends on ``block`` start anew whenever that changes.
        """

    def __call__(
        self, problem: Problem, state: FlowState, counters: Any, iterations: Int[Array, ""]
    ) -> tuple[FlowState, FlowStep]:
        """Take one sub-step.

        Parameters
        ----------
        problem
            L and its derivatives.
        state
            Where to start from.
        counters
            Optimizer state at the start of the whole step, whose counters all its sub-steps use.
        iterations
            Expansions the eigensolver may use.
        """


class End(NamedTuple):
    """Loss and gradient at one end of an oscillation."""

    loss: Float[Array, ""]
    gradient: Float[Array, " params"]


def between(
    linear: Linearization,
    pairs: RitzPairs,
    d: Array,
    rod: Float[Array, " params"],
    plus: End,
    minus: End,
) -> Oscillation:
    """An oscillation between the two points w ± ``rod``: its averages are means of two, not Taylor expansions."""
    y = gram(pairs.vectors / jnp.sqrt(d), rod[None])[:, 0]
    squares = (plus.gradient**2 + minus.gradient**2) / 2
    return Oscillation(
        x=y[:, None] * y,
        loss=(plus.loss + minus.loss) / 2,
        grad_norm_sq=jnp.sum(squares),
        gradient_variance=squares - linear.gradient**2,
        residual=jnp.zeros((), rod.dtype),
    )


def damping(
    where: Bool[Array, " block"], values: Float[Array, " block"], dt: float
) -> Float[Array, " block"]:
    """What Φ takes away along each tracked direction: a whole step leaves λ ≈ 2 neutrally stable.

    Φ takes (1 − e^{−λdt})/(λdt) of a gradient along the directions ``where`` it applies; this is that less one.

    Parameters
    ----------
    where, values
        Which of the tracked directions are damped, and their effective eigenvalues λ.
    dt
        Part of an optimizer step.
    """
    decay = values * dt
    return jnp.where(where, -jnp.expm1(-decay) / decay - 1, 0)


def with_counters(optimizer: UpdateMap, state: Any, counters: Any) -> Any:
    """``state`` with the counters of another."""
    leaves = [
        c if p == COUNTER else x
        for x, c, p in zip(jax.tree.leaves(state), jax.tree.leaves(counters), optimizer.parity, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(state), leaves)


def status_of(pairs: RitzPairs, d: Array, solved: Bool[Array, ""] | bool = True) -> Int[Array, ""]:
    """Worst of what a step reports about its own computation."""
    status = jnp.where(pairs.converged, Status.OK, Status.EIGENPAIRS_NOT_CONVERGED)
    status = jnp.where(solved, status, Status.SDCP_NOT_CONVERGED)
    return jnp.where(jnp.all((d > 0) & jnp.isfinite(d)), status, Status.NOT_POSITIVE).astype(jnp.int32)
