"""What is stepped beside the optimizer: observers of its own path, and flows.

All that a process sees of the discrete run is a :class:`Reference`. Its step returns the record of what every process
knows, and the :class:`~cflow_cli.measurements.base.Point` at which measurements look.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cflow_cli.curvature.block import gram, random_rows
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.engine.discrete import moments_of
from cflow_cli.engine.measuring import KIND
from cflow_cli.engine.spectra import critical_residual, follower, look, probed, resized
from cflow_cli.engine.strain import at_ease
from cflow_cli.flows.base import FlowState, StepInfo, Stepper, with_counters
from cflow_cli.measurements.base import Measurement, Point
from cflow_cli.optimizers.classify import ODD
from cflow_cli.optimizers.operator_map import Held, OperatorMap
from cflow_cli.optimizers.update_map import UpdateMap
from cflow_cli.problem import Problem
from cflow_cli.records import Status

Record = dict[str, Array]
# A new block starts from random vectors and may take what it needs; later ones follow within eigs.max_iterations.
NEW_BLOCK_ITERATIONS = 200
# A loss this many times the initial one (and one unit more) has exploded.
_EXPLOSION = 1e4


class Reference(NamedTuple):
    """The discrete run at one step, as other processes see it.

    Parameters
    ----------
    step
        Optimizer steps taken.
    before, weights, after
        Iterates w_{t−1}, w_t, w_{t+1}; shape (n,).
    step_size
        D of the step that starts at w_t; shape (n,) or (1,), or what an operator is made of.
    moments
        Second moments at w_t, where a measurement asks for them.
    iterations
        Expansions the eigensolver may use here: many for a new block, few for one that follows.
    """

    step: Int[Array, ""]
    before: Float[Array, " params"]
    weights: Float[Array, " params"]
    after: Float[Array, " params"]
    step_size: Float[Array, " params_or_1"] | Held
    moments: tuple[Array, ...]
    iterations: Int[Array, ""]


class Context(NamedTuple):
    """What every process of a simulation is given.

    Parameters
    ----------
    initial_loss
        L(w₀), against which an explosion is told.
    probe
        A random unit vector, shape (n,).
    last_step, branch_step
        Last step of the run, and that from which flows branch off.
    fixed
        What each measurement holds for the whole run.
    """

    initial_loss: Float[Array, ""]
    probe: Float[Array, " params"]
    last_step: Int[Array, ""]
    branch_step: Int[Array, ""]
    fixed: tuple[Any, ...]


S = TypeVar("S")


class Process(Protocol[S]):
    """Anything that can be stepped beside the discrete run; an ``eqx.Module``, so that it can be part of a program."""

    eigs: EigsOptions
    measurements: tuple[Measurement, ...]
    stops_when_full: bool
    """Whether a block that may not grow any more ends the process."""

    def init(self, weights: Array, optimizer: Any, block: int, key: Array, switch: bool) -> S:
        """State at which it begins, beside the optimizer's weights and state."""

    def step(self, problem: Problem, context: Context, state: S, ref: Reference) -> tuple[S, Record, Point]:
        """State after one step, the record of its start, and that start for measurements."""

    def rows(self, state: S) -> Float[Array, "block params"]:
        """Tracked vectors."""

    def resize(self, state: S, block: int, key: Array) -> S:
        """State with room for ``block`` tracked directions."""

    def retaining(self, state: S, tried: S) -> S:
        """``state`` with the eigenvectors of a step that was tried and is to be taken again with a larger block."""

    def follows_all(self, state: S) -> Bool[Array, ""]:
        """Whether every eigenvalue above ``eigs.track_above`` must be in the block."""

    def strained(self, state: S) -> Bool[Array, ""]:
        """Whether its steps are too long and should be divided, from here on."""

    def weights(self, state: S) -> Float[Array, " params"] | None:
        """Where it is at the start of the next step; None for the optimizer, which knows itself."""


class Observed(NamedTuple):
    """State of an observer: eigenvector blocks by parity of the step, and where it looks."""

    vectors: Float[Array, "parities block params"]
    midpoint: Bool[Array, ""]


class Observer(eqx.Module):
    """Measures the optimizer at its iterates or at their second-order midpoints (w₋ + 2w + w₊)/4.

    At the edge the iterates alternate between two sides of a valley, and so do the eigenvectors: blocks are kept for
    even and odd steps, each a good start for the step after next; midpoints use one. Where to look is part of the
    state, so that both views share one compiled program.
    """

    optimizer: UpdateMap | OperatorMap
    eigs: EigsOptions = eqx.field(static=True)
    measurements: tuple[Measurement, ...] = eqx.field(static=True, default=())
    stops_when_full = False

    def init(self, weights: Array, optimizer: Any, block: int, key: Array, switch: bool) -> Observed:
        """State that knows nothing yet; ``switch`` for midpoints."""
        rows = random_rows(key, block, weights.shape[0], weights.dtype)
        return Observed(jnp.stack([rows, rows]), jnp.asarray(switch))

    def rows(self, state: Observed) -> Float[Array, "block params"]:
        """Vectors of the even steps."""
        return state.vectors[0]

    def resize(self, state: Observed, block: int, key: Array) -> Observed:
        """Cut or extend the blocks, new rows random."""
        return state._replace(vectors=jnp.stack([resized(v, block, key) for v in state.vectors]))

    def retaining(self, state: Observed, tried: Observed) -> Observed:
        """All of the step that was tried: an observer has nothing to take back."""
        return tried

    def follows_all(self, state: Observed) -> Bool[Array, ""]:
        """Wherever there is a D to speak of an edge."""
        return jnp.asarray(self.optimizer.refusal is None)

    def strained(self, state: Observed) -> Bool[Array, ""]:
        """It takes no steps."""
        return jnp.asarray(False)

    def weights(self, state: Observed) -> None:
        """Those of the optimizer, which knows them itself."""
        return

    def step(
        self, problem: Problem, context: Context, state: Observed, ref: Reference
    ) -> tuple[Observed, Record, Point]:
        """Measure loss, gradient and spectrum at the iterate or midpoint; the eigenvectors follow."""
        w = jnp.where(state.midpoint, (ref.before + 2 * ref.weights + ref.after) / 4, ref.weights)
        linear = problem.linearize(w)
        side = jnp.where(state.midpoint, 0, ref.step % 2)

        seen = look(
            None if self.eigs.every == 1 else ref.step % self.eigs.every == 0,
            follower(self.optimizer, linear.hvp, ref.step_size),
            state.vectors[side],
            lambda rows: probed(rows, context.probe, ref.step),
            self.eigs,
            self.eigs.track_above if self.optimizer.refusal is None else jnp.inf,
            ref.iterations,
        )
        status = jnp.where(seen.converged, Status.OK, Status.EIGENPAIRS_NOT_CONVERGED)
        status = jnp.where(exploded(linear.loss, context), Status.DIVERGED, status)
        drift = (ref.after - ref.before) / 2
        step_size, vectors = diagonal_and_vectors(self.optimizer, ref.step_size, seen.vectors)

        def smooth_drift() -> Array:
            operator = self.optimizer.is_operator
            known = ODD not in self.optimizer.parity and self.optimizer.refusal is None and not operator
            return -step_size * linear.gradient if known else jnp.full_like(w, jnp.nan)

        point = Point(
            problem=problem,
            optimizer=self.optimizer,
            eigs=self.eigs,
            step=ref.step,
            age=ref.step,
            weights=w,
            linear=linear,
            step_size=step_size,
            step_sizes=jnp.broadcast_to(step_size, w.shape),
            values=seen.values,
            vectors=vectors,
            moments=ref.moments,
            move=ref.after - ref.weights,
            drift=drift,
            smooth_drift=smooth_drift,
            optimizer_state=None,
            is_optimizer=~state.midpoint,
            oscillates=False,
        )
        record = common_record(point) | {
            "eigen_residual": seen.residual,
            "hvps": seen.hvps,
            "status": status.astype(jnp.int32),
        }
        return Observed(state.vectors.at[side].set(seen.vectors), state.midpoint), record, point


class FlowProcess(eqx.Module):
    """Steps a flow beside the discrete run and records what it predicts.

    Parameters
    ----------
    stepper, eigs, substeps, measurements
        What is stepped, how eigenvalues are tracked, in how many parts a step is taken, what is measured.
    watched
        Whether its step is to hold S_eff at 2, so that it counts when that fails.
    divisible
        Whether its steps may be divided further.
    """

    stepper: Stepper
    eigs: EigsOptions = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    measurements: tuple[Measurement, ...] = eqx.field(static=True, default=())
    watched: bool = eqx.field(static=True, default=False)
    divisible: bool = eqx.field(static=True, default=False)
    stops_when_full = True

    def init(self, weights: Array, optimizer: Any, block: int, key: Array, switch: bool) -> FlowState:
        """Branch off the discrete run; ``switch`` for a flow that oscillates."""
        rows = random_rows(key, block, weights.shape[0], weights.dtype)
        x = jnp.zeros((block, block), weights.dtype)
        memory = self.stepper.start(weights, block)
        watch = at_ease(weights.dtype) if self.watched else ()
        return FlowState(weights, optimizer, rows, x, jnp.asarray(switch), memory, watch)

    def rows(self, state: FlowState) -> Float[Array, "block params"]:
        """Tracked eigenvectors."""
        return state.vectors

    def resize(self, state: FlowState, block: int, key: Array) -> FlowState:
        """Cut or extend the tracked block; X keeps its entries, the memory what does not depend on the block."""
        keep = min(block, state.x.shape[0])
        x = jnp.zeros((block, block), state.x.dtype).at[:keep, :keep].set(state.x[:keep, :keep])
        fresh = self.stepper.start(state.weights, block)
        # Of another form where it would take too much from now on.
        memory, form = fresh, cast(Any, jax.tree.structure(fresh))
        if form == jax.tree.structure(state.memory):
            memory = jax.tree.map(
                lambda old, new: old if old.shape == new.shape else new, state.memory, fresh
            )
        return state._replace(vectors=resized(state.vectors, block, key), x=x, memory=memory)

    def retaining(self, state: FlowState, tried: FlowState) -> FlowState:
        """The old point, seen with the new eigenvectors (X turned into their basis)."""
        if self.stepper.optimizer.is_operator:  # whose X is solved for anew
            return state._replace(vectors=tried.vectors)
        turn = gram(tried.vectors, state.vectors)
        return state._replace(vectors=tried.vectors, x=turn @ state.x @ turn.T)

    def follows_all(self, state: FlowState) -> Bool[Array, ""]:
        """Where the flow acts on each critical direction; the stable flow needs the largest eigenvalue only."""
        return state.oscillates

    def strained(self, state: FlowState) -> Bool[Array, ""]:
        """Where it missed the edge too often and can still be divided."""
        return state.watch.too_often if self.watched and self.divisible else jnp.asarray(False)

    def weights(self, state: FlowState) -> Float[Array, " params"]:
        """Its own."""
        return state.weights

    def step(
        self, problem: Problem, context: Context, state: FlowState, ref: Reference
    ) -> tuple[FlowState, Record, Point]:
        """One optimizer step's worth of the flow, in ``substeps`` parts; the record describes its start."""
        optimizer, counters, w = self.stepper.optimizer, state.optimizer, state.weights
        flow = state._replace(vectors=probed(state.vectors, context.probe, ref.step))
        flow, info = self.stepper(problem, flow, counters, ref.iterations)
        spent = _spent(info)
        if self.substeps > 1:

            def part(_: Array, carry: tuple[FlowState, Any]) -> tuple[FlowState, Any]:
                flow, spent = carry
                flow, later = self.stepper(problem, flow, counters, ref.iterations)
                more = _spent(later)
                return flow, {
                    k: jnp.maximum(spent[k], v) if k in _WORST else spent[k] + v for k, v in more.items()
                }

            flow, spent = jax.lax.fori_loop(1, self.substeps, part, (flow, spent))

        pairs, linear = info.pairs, info.linear
        watch, status = (), spent["status"]
        if self.watched:
            acting = state.oscillates & (pairs.values[0] > self.eigs.critical_above)
            watch, status = state.watch.after(pairs.values[0], acting, status)
        status = jnp.where(pairs.values[0] > self.eigs.max_sharpness, Status.TOO_SHARP, status)
        status = jnp.where(exploded(linear.loss, context), Status.DIVERGED, status)
        away = ref.weights - w
        move = flow.weights - w
        critical = jnp.where(state.oscillates, jnp.sum(pairs.values > self.eigs.critical_above), 0)
        point = Point(
            problem=problem,
            optimizer=optimizer,
            eigs=self.eigs,
            step=ref.step,
            age=ref.step - context.branch_step,
            weights=w,
            linear=linear,
            step_size=info.preconditioner,
            step_sizes=jnp.broadcast_to(info.preconditioner, w.shape),
            values=pairs.values,
            vectors=pairs.vectors,
            moments=moments_of(optimizer, state.optimizer),
            move=move,
            drift=move,
            smooth_drift=lambda: optimizer(
                with_counters(optimizer, state.optimizer, counters), linear.gradient, w
            )[1],
            optimizer_state=state.optimizer,
            is_optimizer=False,
            oscillates=state.oscillates,
            oscillation=info.oscillation,
            critical=critical,
        )
        record = common_record(point) | spent
        record |= {
            "distance_to_discrete": jnp.linalg.norm(away),
            "eigen_residual": critical_residual(pairs, self.eigs),
            "substeps": jnp.asarray(self.substeps, jnp.int32),
            "status": status.astype(jnp.int32),
        }
        record |= _oscillation_record(info, away, record["num_critical"], state.oscillates)
        return flow._replace(watch=watch), record | dict(info.extra or {}), point


_WORST = ("status", "sdcp_residual")


def _spent(info: StepInfo) -> Record:
    """Costs of a sub-step, which add up, and its troubles, of which the worst counts."""
    return {
        "gradients": info.gradients,
        "hvps": info.pairs.hvps,
        "third_derivatives": info.third_derivatives,
        "status": info.status,
        "sdcp_residual": info.oscillation.residual,
    }


def _oscillation_record(info: StepInfo, away: Array, critical: Array, oscillates: Array) -> Record:
    """Predictions of a flow with an oscillation, and the displacement of the real optimizer along Σ's axes."""
    x, d, vectors = info.oscillation.x, info.preconditioner, info.pairs.vectors
    variances, basis = jnp.linalg.eigh(x)
    variances, basis = variances[::-1], basis[:, ::-1]
    along = vectors @ (away / jnp.sqrt(d)) if info.covectors is None else info.covectors @ away
    exists = (jnp.arange(variances.shape[0]) < critical) & oscillates
    record = {
        "predicted_loss": info.oscillation.loss,
        "predicted_grad_norm_sq": info.oscillation.grad_norm_sq,
        "x_trace": jnp.trace(x),
        KIND + "sigma": jnp.where(exists, variances, jnp.nan),
        KIND + "sigma_measured": jnp.where(exists, (along @ basis) ** 2, jnp.nan),
        KIND + "displacement": jnp.where(exists, along, jnp.nan),
    }
    # tr Σ = ⟨X, VDVᵀ⟩ of Σ = D^½VᵀXVD^½; where D is one number the host multiplies.
    if info.covectors is not None:
        return record | {"sigma_trace": jnp.sum(x * gram(vectors, vectors))}
    return record if d.shape == (1,) else record | {"sigma_trace": jnp.sum(x * gram(d * vectors, vectors))}


def own_step_size(optimizer: Any, state: Any, after: Any, g: Array, w: Array) -> Any:
    """D of a step from ``state`` to ``after``: its diagonal, what an operator is made of, or 1 where there is none."""
    if optimizer.is_operator:
        return optimizer.held(state, g, w)
    return optimizer.linear_response(after)[0] if optimizer.refusal is None else jnp.ones(1, w.dtype)


def diagonal_and_vectors(optimizer: Any, step_size: Any, rows: Array) -> tuple[Array, Array]:
    """D and eigenvectors as measurements see them: NaN and directions u = Dz, zᵀu = 1, where D is an operator."""
    if not optimizer.is_operator:
        return step_size, rows
    u = optimizer.response(step_size, rows)[0]
    return jnp.full(1, jnp.nan, rows.dtype), u / jnp.sqrt(jnp.sum(rows * u, axis=1, keepdims=True))


def common_record(point: Point) -> Record:
    """The part of a record that every process writes; the spectrum is that of no D where there is none."""
    values, eigs = point.values, point.eigs
    if point.optimizer.refusal is not None:
        values = jnp.full_like(values, jnp.nan)
    return {
        "step": point.step,
        "loss": point.linear.loss,
        "grad_norm_sq": point.linear.gradient @ point.linear.gradient,
        "effective_sharpness": values[0],
        "num_critical": jnp.where(jnp.isnan(values[0]), -1, jnp.sum(values > eigs.critical_above)).astype(
            jnp.int32
        ),
        "num_tracked": jnp.sum(values > eigs.track_above).astype(jnp.int32),
        "effective_step_size": 1 / jnp.mean(1 / point.step_size),
        "gradients": jnp.ones((), jnp.int32),
        KIND + "effective": values,
    }


def exploded(loss: Array, context: Context) -> Bool[Array, ""]:
    """Whether a loss is not finite, or so far above the initial one that it will not come back."""
    return ~(jnp.abs(loss) <= _EXPLOSION * (jnp.abs(context.initial_loss) + 1))
