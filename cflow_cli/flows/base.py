"""What every flow has: its state, the interface of a stepper, how its step starts and what it reports."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cflow_cli.curvature.block import RitzPairs, gram, preconditioned, track
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.optimizers.classify import COUNTER
from cflow_cli.optimizers.operator_map import OperatorMap
from cflow_cli.optimizers.update_map import UpdateMap
from cflow_cli.problem import Linearization, Problem
from cflow_cli.records import Status

# Above the edge (after branching off, at a jump of the rate) the flow comes down gradually, as the optimizer does: a
# unit of time takes away this part of the excess over 2 (from S_eff 8, where RMSProp's flows branch off on CIFAR-10, 18
# steps; the optimizer takes as long), or this much where that is more, because a part alone would never arrive.
_DESCENT_RATE = 0.2
_LEAST_DESCENT = 0.1
# A learning rate that grows by this factor in one step jumps: that of a linear warm-up grows by less from its tenth
# step on.
_JUMP = 1.1


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
    watch
        The engine's watch over S_eff: where the last step is to end at most, and how often it did not.
    """

    weights: Float[Array, " params"]
    optimizer: Any
    vectors: Float[Array, "block params"]
    x: Float[Array, "block block"]
    oscillates: Bool[Array, ""]
    memory: Any = ()
    watch: Any = ()


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


class StepInfo(NamedTuple):
    """What a step found out about its starting point, and what it cost.

    Parameters
    ----------
    linear
        Loss, gradient and Hessian there.
    pairs
        Tracked eigenpairs of D^½ H D^½; their ``hvps`` are those of the whole step.
    preconditioner
        D, shape (n,), or (1,) where it is the same for all weights; NaN where it is an operator.
    oscillation
        The oscillation around the flow; :func:`calm` where there is none.
    gradients, third_derivatives
        Evaluations spent.
    status
        The worst of :class:`cflow_cli.records.Status` that the step reports about its own computation.
    extra
        Columns of which only this flow knows, as its options declare them.
    covectors
        Where D is an operator: z of each direction u = Dz, which ``pairs`` then has as its vectors; shape (block, n).
    """

    linear: Linearization
    pairs: RitzPairs
    preconditioner: Float[Array, " params_or_1"]
    oscillation: Oscillation
    gradients: Int[Array, ""]
    third_derivatives: Int[Array, ""]
    status: Int[Array, ""]
    extra: dict[str, Float[Array, ""]] | None = None
    covectors: Float[Array, "block params"] | None = None


class Stepper(Protocol):
    """The step (w, s, V, X) ↦ (w', s', V', X') of a flow over a time ``dt``: what the engine asks of a flow."""

    @property
    def optimizer(self) -> UpdateMap | OperatorMap:
        """The update map that it follows."""

    def start(self, weights: Float[Array, " params"], block: int) -> Any:
        """``memory`` of the state at which the flow branches off, with ``block`` tracked directions.

        Arrays of it whose shape depends on ``block`` start anew whenever that changes.
        """

    def __call__(
        self, problem: Problem, state: FlowState, counters: Any, iterations: Int[Array, ""]
    ) -> tuple[FlowState, StepInfo]:
        """Take one sub-step: the state after it, and what was found out on the way.

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


class Linearised(NamedTuple):
    """What every flow needs to know of the point at which a step starts; see :func:`linearise`.

    Parameters
    ----------
    linear
        L, ∇L and V ↦ H V.
    d, root
        D and D^½ of the step to come, shape (n,) or (1,).
    response
        R of each momentum: it oscillates as R times the gradient; see :meth:`UpdateMap.linear_response`.
    pairs
        Tracked eigenpairs of D^½ H D^½: critical directions are u = D^½v with Hu = λD⁻¹u.
    before
        State of the optimizer to step from, with the counters of the whole step.
    """

    linear: Linearization
    d: Float[Array, " params_or_1"]
    root: Float[Array, " params_or_1"]
    response: list[Float[Array, " params"]]
    pairs: RitzPairs
    before: Any

    def info(
        self,
        oscillation: Oscillation | None = None,
        *,
        gradients: int | Int[Array, ""] = 1,
        hvps: int | Int[Array, ""] = 0,
        third_derivatives: int | Int[Array, ""] = 0,
        solved: bool | Bool[Array, ""] = True,
        extra: dict[str, Float[Array, ""]] | None = None,
    ) -> StepInfo:
        """What a step from here reports.

        Parameters
        ----------
        oscillation
            None for a flow without any.
        gradients, hvps, third_derivatives
            Evaluations spent, Hessian-vector products beyond those of the eigenpairs.
        solved
            Whether the flow's own equations were solved.
        extra
            As in :class:`StepInfo`.
        """
        return StepInfo(
            linear=self.linear,
            pairs=self.pairs._replace(hvps=self.pairs.hvps + hvps),
            preconditioner=self.d,
            oscillation=calm(self.linear, len(self.pairs.values)) if oscillation is None else oscillation,
            gradients=jnp.asarray(gradients, jnp.int32),
            third_derivatives=jnp.asarray(third_derivatives, jnp.int32),
            status=status_of(self.pairs, self.d, solved),
            extra=extra,
        )


def linearise(
    optimizer: UpdateMap,
    eigs: EigsOptions,
    problem: Problem,
    state: FlowState,
    counters: Any,
    iterations: Int[Array, ""],
) -> Linearised:
    """How each step starts: the loss around the weights, the optimizer's D at the step to come, the eigenpairs.

    Parameters
    ----------
    optimizer, eigs
        As the stepper has them.
    problem, state, counters, iterations
        As in :meth:`Stepper.__call__`.
    """
    linear = problem.linearize(state.weights)
    d, response = optimizer.linear_response(optimizer.upcoming(state.optimizer, counters))
    return Linearised(
        linear=linear,
        d=d,
        root=jnp.sqrt(d),
        response=response,
        pairs=follow(linear, d, eigs, state, iterations),
        before=with_counters(optimizer, state.optimizer, counters),
    )


def follow(
    linear: Linearization, d: Array, eigs: EigsOptions, state: FlowState, iterations: Int[Array, ""]
) -> RitzPairs:
    """Eigenpairs of D^½ H D^½ from those of the step before; without oscillation only the largest is wanted."""
    return track(
        preconditioned(linear.hvp, d),
        state.vectors,
        above=jnp.where(state.oscillates, eigs.track_above, jnp.inf),
        critical=eigs.critical_above,
        tolerance=eigs.tolerance,
        max_iterations=iterations,
    )


def calm(linear: Linearization, block: int) -> Oscillation:
    """No oscillation: the averages are the values at the weights."""
    zero = jnp.zeros((), linear.gradient.dtype)
    return Oscillation(
        x=jnp.zeros((block, block), zero.dtype),
        loss=linear.loss,
        grad_norm_sq=linear.gradient @ linear.gradient,
        gradient_variance=jnp.zeros_like(linear.gradient),
        residual=zero,
    )


class End(NamedTuple):
    """Loss and gradient at one end of an oscillation."""

    loss: Float[Array, ""]
    gradient: Float[Array, " params"]


def between(here: Linearised, rod: Float[Array, " params"], plus: End, minus: End) -> Oscillation:
    """An oscillation between the two points w ± ``rod``: its averages are means of two, not Taylor expansions."""
    y = gram(here.pairs.vectors / jnp.sqrt(here.d), rod[None])[:, 0]
    squares = (plus.gradient**2 + minus.gradient**2) / 2
    return Oscillation(
        x=y[:, None] * y,
        loss=(plus.loss + minus.loss) / 2,
        grad_norm_sq=jnp.sum(squares),
        gradient_variance=squares - here.linear.gradient**2,
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


def descent(values: Float[Array, " block"]) -> Float[Array, " block"]:
    """How much of effective eigenvalues above 2 a unit of time takes away."""
    return jnp.maximum(_LEAST_DESCENT, _DESCENT_RATE * (values - 2))


def has_jumped(growth: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether a learning rate that grows by this factor in a step jumps."""
    return ~(growth < _JUMP)


def with_counters(optimizer: UpdateMap | OperatorMap, state: Any, counters: Any) -> Any:
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
