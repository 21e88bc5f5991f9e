"""What is measured or stepped beside the optimizer, and the compiled loop over a chunk of steps.

A process is an ``eqx.Module`` with ``init``, ``step`` and ``resize``; all that follows the discrete run sees of it is a
:class:`Reference`. :func:`run_chunk` steps any process through a chunk in one compiled program, which ends early when
the process has to stop or its block of tracked eigenvectors has become too small.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .curvature.block import gram, preconditioned, random_rows, track
from .flows.base import FlowState, FlowStep, Stepper
from .optimizers.update_map import UpdateMap
from .options import EigsOptions
from .problem import Evaluation, Linearization, Problem
from .records import Status

Record = dict[str, Array]
NEW_BLOCK_ITERATIONS = 200
# A small admixture keeps the last guard vector from sitting on one eigenvector while another rises past it.
_PROBE = 0.05
_SHIFT = 7919


class Reference(NamedTuple):
    """The discrete run at one step, as other processes see it.

    Parameters
    ----------
    step
        Optimizer steps taken.
    before, weights, after
        Iterates w_{t−1}, w_t, w_{t+1}; shape (n,).
    preconditioner
        D of the step that starts at w_t; shape (n,) or (1,).
    iterations
        Expansions the eigensolver may use here: many for a new block, few for one that follows.
    """

    step: Int[Array, ""]
    before: Float[Array, " params"]
    weights: Float[Array, " params"]
    after: Float[Array, " params"]
    preconditioner: Float[Array, " params_or_1"]
    iterations: Int[Array, ""]


class Context(NamedTuple):
    """What every process is given: the initial loss, watched coordinates, whether to evaluate, the last step.

    ``probe`` is a random unit vector, ``examples`` are the training examples whose outputs are recorded.
    """

    initial_loss: Float[Array, ""]
    coordinates: Int[Array, " coordinates"]
    examples: Int[Array, " examples"]
    eval_every: Int[Array, ""]
    last_step: Int[Array, ""]
    probe: Float[Array, " params"]


S = TypeVar("S")


class Process(Protocol[S]):
    """Anything that can be stepped beside the discrete run."""

    def step(self, problem: Problem, context: Context, state: S, ref: Reference) -> tuple[S, Record]:
        """State after one step and the record of its start."""

    def resize(self, state: S, block: int, key: Array) -> S:
        """State with room for ``block`` tracked directions."""

    def retaining(self, state: S, tried: S) -> S:
        """``state`` with the eigenvectors of a step that was tried and is to be taken again with a larger block."""

    def block(self, state: S) -> int:
        """Number of tracked directions."""

    def follows_all(self, state: S) -> Bool[Array, ""]:
        """Whether every eigenvalue above ``eigs.track_above`` must be in the block."""

    eigs: EigsOptions
    stops_when_full: bool


class Observed(NamedTuple):
    """State of an observer: eigenvector blocks by parity of the step, one of the raw Hessian, where it looks."""

    vectors: Float[Array, "parities block params"]
    hessian: Float[Array, "few params"]
    midpoint: Bool[Array, ""]


class Observer(eqx.Module):
    """Measures the optimizer at its iterates or at their second-order midpoints (w₋ + 2w + w₊)/4.

    At the edge the iterates alternate between two sides of a valley, and so do the eigenvectors: blocks are kept for
    even and odd steps, each a good start for the step after next; midpoints use one. Where to look is part of the
    state, so that both views share one compiled program.
    """

    optimizer: UpdateMap
    eigs: EigsOptions = eqx.field(static=True)
    stops_when_full = False

    def init(self, weights: Array, block: int, key: Array, *, midpoint: bool) -> Observed:
        """State that knows nothing yet."""
        rows = random_rows(key, block, weights.shape[0], weights.dtype)
        return Observed(
            jnp.stack([rows, rows]), _hessian_rows(self.optimizer, self.eigs, rows), jnp.asarray(midpoint)
        )

    def resize(self, state: Observed, block: int, key: Array) -> Observed:
        """Cut or extend the blocks, new rows random."""
        vectors = jnp.stack([_resized(v, block, key) for v in state.vectors])
        return state._replace(vectors=vectors)

    def retaining(self, state: Observed, tried: Observed) -> Observed:
        """All of the step that was tried: an observer has nothing to take back."""
        return tried

    def follows_all(self, state: Observed) -> Bool[Array, ""]:
        """Wherever there is a D to speak of an edge."""
        return jnp.asarray(self.optimizer.refusal is None)

    def block(self, state: Observed) -> int:
        """Number of tracked directions."""
        return state.vectors.shape[1]

    def step(
        self, problem: Problem, context: Context, state: Observed, ref: Reference
    ) -> tuple[Observed, Record]:
        """Measure loss, gradient and spectrum at the iterate or midpoint; the eigenvectors follow."""
        w = jnp.where(state.midpoint, (ref.before + 2 * ref.weights + ref.after) / 4, ref.weights)
        linear = problem.linearize(w)
        side = jnp.where(state.midpoint, 0, ref.step % 2)

        def measure(_: None) -> tuple[Array, Array, Array, Array, Array]:
            pairs = track(
                preconditioned(linear.hvp, ref.preconditioner),
                _probed(state.vectors[side], context.probe, ref.step),
                above=self.eigs.track_above if self.optimizer.refusal is None else jnp.inf,
                critical=self.eigs.critical_above,
                tolerance=self.eigs.tolerance,
                max_iterations=ref.iterations,
            )
            return (
                pairs.ahead,
                pairs.values,
                _critical_residual(pairs, self.eigs),
                pairs.hvps,
                pairs.converged,
            )

        def skip(_: None) -> tuple[Array, Array, Array, Array, Array]:
            nothing = jnp.full((), jnp.nan, w.dtype)
            return (
                state.vectors[side],
                jnp.full(self.block(state), jnp.nan, w.dtype),
                nothing,
                jnp.zeros((), jnp.int32),
                jnp.asarray(True),
            )

        vectors, values, residual, hvps, converged = (
            measure(None)
            if self.eigs.every == 1
            else jax.lax.cond(ref.step % self.eigs.every == 0, measure, skip, None)
        )
        hessian, raw, raw_hvps = _raw_sharpness(
            self.optimizer, self.eigs, linear, ref.preconditioner, values, state.hessian, ref.step
        )
        if self.optimizer.refusal is not None:  # D stands for 1, and the spectrum is that of H
            values = jnp.full_like(values, jnp.nan)
        status = jnp.where(converged, Status.OK, Status.EIGENPAIRS_NOT_CONVERGED)
        status = jnp.where(_exploded(linear.loss, context), Status.DIVERGED, status)
        record = _common(problem, context, self.eigs, linear, ref.preconditioner, values, w, ref) | {
            "eigen_residual": residual,
            "hvps": hvps + raw_hvps,
            "status": status.astype(jnp.int32),
            "hessian": raw,
        }
        state = Observed(state.vectors.at[side].set(vectors), hessian, state.midpoint)
        return state, record


class StepperState(NamedTuple):
    """State of a flow process: the flow's own, and the block of the raw Hessian."""

    flow: FlowState
    hessian: Float[Array, "few params"]


class FlowProcess(eqx.Module):
    """Steps a flow beside the discrete run and records what it predicts."""

    stepper: Stepper
    eigs: EigsOptions = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    stops_when_full = True

    def init(
        self, weights: Array, optimizer_state: Any, block: int, key: Array, *, oscillates: bool
    ) -> StepperState:
        """Branch off the discrete run at ``weights`` and ``optimizer_state``."""
        rows = random_rows(key, block, weights.shape[0], weights.dtype)
        x = jnp.zeros((block, block), weights.dtype)
        memory = self.stepper.start(weights, block)
        flow = FlowState(weights, optimizer_state, rows, x, jnp.asarray(oscillates), memory)
        return StepperState(flow, _hessian_rows(self.stepper.optimizer, self.eigs, rows))

    def resize(self, state: StepperState, block: int, key: Array) -> StepperState:
        """Cut or extend the tracked block; X keeps its entries, the memory what does not depend on the block."""
        flow, keep = state.flow, min(block, state.flow.x.shape[0])
        x = jnp.zeros((block, block), flow.x.dtype).at[:keep, :keep].set(flow.x[:keep, :keep])
        fresh = self.stepper.start(flow.weights, block)
        memory = jax.tree.map(lambda old, new: old if old.shape == new.shape else new, flow.memory, fresh)
        vectors = _resized(flow.vectors, block, key)
        return state._replace(flow=flow._replace(vectors=vectors, x=x, memory=memory))

    def retaining(self, state: StepperState, tried: StepperState) -> StepperState:
        """The old point, seen with the new eigenvectors (X turned into their basis)."""
        turn = gram(tried.flow.vectors, state.flow.vectors)
        flow = state.flow._replace(vectors=tried.flow.vectors, x=turn @ state.flow.x @ turn.T)
        return StepperState(flow, tried.hessian)

    def follows_all(self, state: StepperState) -> Bool[Array, ""]:
        """Where the flow acts on each critical direction; the stable flow needs the largest eigenvalue only."""
        return state.flow.oscillates

    def block(self, state: StepperState) -> int:
        """Number of tracked directions."""
        return state.flow.vectors.shape[0]

    def step(
        self, problem: Problem, context: Context, state: StepperState, ref: Reference
    ) -> tuple[StepperState, Record]:
        """One optimizer step's worth of the flow, in ``substeps`` parts; the record describes its start."""
        start = state.flow
        counters = start.optimizer
        flow = start._replace(vectors=_probed(start.vectors, context.probe, ref.step))
        flow, first = self.stepper(problem, flow, counters, ref.iterations)
        spent = _spent(first)
        if self.substeps > 1:

            def part(_: Array, carry: tuple[FlowState, Any]) -> tuple[FlowState, Any]:
                flow, spent = carry
                flow, found = self.stepper(problem, flow, counters, ref.iterations)
                more = _spent(found)
                return flow, {
                    k: jnp.maximum(spent[k], v) if k in _WORST else spent[k] + v for k, v in more.items()
                }

            flow, spent = jax.lax.fori_loop(1, self.substeps, part, (flow, spent))

        w, pairs, linear, d = start.weights, first.pairs, first.linear, first.preconditioner
        hessian, raw, raw_hvps = _raw_sharpness(
            self.stepper.optimizer, self.eigs, linear, d, pairs.values, state.hessian, ref.step
        )
        status = jnp.where(pairs.values[0] > self.eigs.max_sharpness, Status.TOO_SHARP, spent["status"])
        status = jnp.where(_exploded(linear.loss, context), Status.DIVERGED, status)
        away = ref.weights - w
        record = _common(problem, context, self.eigs, linear, d, pairs.values, w, ref) | spent
        record |= {
            "distance_to_discrete": jnp.linalg.norm(away),
            "eigen_residual": _critical_residual(pairs, self.eigs),
            "hvps": spent["hvps"] + raw_hvps,
            "status": status.astype(jnp.int32),
            "hessian": raw,
        }
        record |= _oscillation_record(first, away, record["num_critical"], start.oscillates, context)
        for name, value in (first.extra or {}).items():
            record[name] = value if value.ndim == 0 else value[context.coordinates]
        return StepperState(flow, hessian), record


_WORST = ("status", "sdcp_residual")


def _spent(found: FlowStep) -> Record:
    """Costs of a sub-step, which add up, and its troubles, of which the worst counts."""
    return {
        "gradients": found.gradients,
        "hvps": found.pairs.hvps,
        "third_derivatives": found.third_derivatives,
        "status": found.status,
        "sdcp_residual": found.oscillation.residual,
    }


def _oscillation_record(
    found: FlowStep, away: Array, critical: Array, oscillates: Array, context: Context
) -> Record:
    """Predictions of a flow with an oscillation, and the displacement of the real optimizer along Σ's axes."""
    x = found.oscillation.x
    sigma, basis = jnp.linalg.eigh(x)
    sigma, basis = sigma[::-1], basis[:, ::-1]
    along = found.pairs.vectors @ (away / jnp.sqrt(found.preconditioner))
    exists = (jnp.arange(sigma.shape[0]) < critical) & oscillates
    i = context.coordinates
    return {
        "predicted_loss": found.oscillation.loss,
        "predicted_grad_norm_sq": found.oscillation.grad_norm_sq,
        "sigma_trace": jnp.trace(x),
        "sigma": jnp.where(exists, sigma, jnp.nan),
        "sigma_measured": jnp.where(exists, (along @ basis) ** 2, jnp.nan),
        "displacement": jnp.where(exists, along, jnp.nan),
        "predicted_grad_sq": found.linear.gradient[i] ** 2 + found.oscillation.gradient_variance[i],
    }


def _common(
    problem: Problem,
    context: Context,
    eigs: EigsOptions,
    linear: Linearization,
    d: Array,
    values: Array,
    w: Array,
    ref: Reference,
) -> Record:
    """The part of a record that every process writes."""
    missing = jnp.full((), jnp.nan, w.dtype)
    evaluated = jax.lax.cond(
        (ref.step % context.eval_every == 0) | (ref.step == context.last_step),
        lambda w: problem.evaluate(w),
        lambda w: Evaluation(missing, missing, missing),
        w,
    )
    return {
        "step": ref.step,
        "loss": linear.loss,
        "accuracy": evaluated.accuracy,
        "test_loss": evaluated.test_loss,
        "test_accuracy": evaluated.test_accuracy,
        "grad_norm_sq": linear.gradient @ linear.gradient,
        "effective_sharpness": values[0],
        "num_critical": jnp.where(jnp.isnan(values[0]), -1, jnp.sum(values > eigs.critical_above)).astype(
            jnp.int32
        ),
        "num_tracked": jnp.sum(values > eigs.track_above).astype(jnp.int32),
        "preconditioner_mean": 1 / jnp.mean(1 / d),
        "gradients": jnp.ones((), jnp.int32),
        "effective": values,
        "grad_sq": linear.gradient[context.coordinates] ** 2,
        "preconditioner": jnp.broadcast_to(d, w.shape)[context.coordinates],
        "output": problem.outputs(w, context.examples),
    }


def _critical_residual(pairs: Any, eigs: EigsOptions) -> Array:
    wanted = (pairs.values > eigs.critical_above) | (jnp.arange(pairs.values.shape[0]) == 0)
    return jnp.max(jnp.where(wanted, pairs.residuals / jnp.abs(pairs.values), 0))


def _hessian_rows(optimizer: UpdateMap, eigs: EigsOptions, rows: Array) -> Array:
    """Block of the raw Hessian: two vectors where it is tracked on its own, none where D is uniform."""
    return rows[: 0 if optimizer.uniform or optimizer.refusal is not None or eigs.hessian_every == 0 else 2]


def _raw_sharpness(
    optimizer: UpdateMap,
    eigs: EigsOptions,
    linear: Linearization,
    d: Array,
    values: Array,
    rows: Array,
    step: Array,
) -> tuple[Array, Array, Array]:
    """Hessian eigenvalues: from S_eff where D is uniform, else from a block of their own every few steps."""
    none = jnp.zeros((), jnp.int32)
    if optimizer.uniform or optimizer.refusal is not None:
        return rows, values / d[0], none
    if eigs.hessian_every == 0:
        return rows, jnp.full(1, jnp.nan, d.dtype), none

    def measure(rows: Array) -> tuple[Array, Array, Array]:
        pairs = track(
            linear.hvp,
            rows,
            above=jnp.inf,
            tolerance=eigs.tolerance,
            max_iterations=NEW_BLOCK_ITERATIONS,
        )
        return pairs.ahead, pairs.values[:1], pairs.hvps

    def skip(rows: Array) -> tuple[Array, Array, Array]:
        return rows, jnp.full(1, jnp.nan, d.dtype), none

    return jax.lax.cond(step % eigs.hessian_every == 0, measure, skip, rows)


def _exploded(loss: Array, context: Context) -> Bool[Array, ""]:
    return ~(jnp.abs(loss) <= 1e4 * (jnp.abs(context.initial_loss) + 1))


def _probed(rows: Array, probe: Array, step: Array) -> Array:
    # Shifted by another distance at each step: new random numbers would cost up to half a gradient.
    return rows.at[-1].add(_PROBE * jnp.roll(probe, step * _SHIFT))


def _resized(rows: Array, block: int, key: Array) -> Array:
    if block <= rows.shape[0]:
        return rows[:block]
    return jnp.concatenate([rows, random_rows(key, block - rows.shape[0], rows.shape[1], rows.dtype)])


class ChunkResult(NamedTuple):
    """State after a chunk, its records (one row per step; rows from ``done`` on are unused), and why it ended."""

    state: Any
    records: Record
    done: Int[Array, ""]
    grow: Bool[Array, ""]
    stopped: Bool[Array, ""]


class Trajectory(NamedTuple):
    """Iterates w_a … w_b and the D of each step between them; row r belongs to step a + r."""

    weights: Float[Array, "rows params"]
    preconditioner: Float[Array, "rows params_or_1"]


@eqx.filter_jit
def run_chunk(
    process: Any,
    problem: Problem,
    context: Context,
    state: Any,
    path: Trajectory,
    first: Int[Array, ""],
    start: Int[Array, ""],
    stop: Int[Array, ""],
    settled: Int[Array, ""],
) -> ChunkResult:
    """Step ``process`` along rows ``start`` to ``stop`` of the discrete run's path.

    Parameters
    ----------
    path
        The discrete run, with one row of context before the first step and one after the last: row 1 + r of the
        weights is step ``first`` + r.
    start, stop
        Rows to go from and to; ends earlier at a status that stops, or before a step for which the block of
        tracked directions is too small (``grow``).
    settled
        Step from which the eigenvectors only have to follow; before it a new block may take many iterations.
    """
    rows = path.preconditioner.shape[0]
    block = process.block(state)
    full = block >= process.eigs.max_tracked

    def reference(r: Array) -> Reference:
        iterations = jnp.where(first + r < settled, NEW_BLOCK_ITERATIONS, process.eigs.max_iterations)
        return Reference(
            first + r,
            path.weights[r],
            path.weights[r + 1],
            path.weights[r + 2],
            path.preconditioner[r],
            iterations,
        )

    _, shapes = jax.eval_shape(lambda: process.step(problem, context, state, reference(start)))
    empty = jax.tree.map(lambda a: jnp.zeros((rows, *a.shape), a.dtype), shapes)

    def body(carry: tuple[Any, Record, Array, Array, Array]) -> tuple[Any, Record, Array, Array, Array]:
        state, records, r, _, _ = carry
        new, record = process.step(problem, context, state, reference(r))
        short = process.follows_all(state) & (record["num_tracked"] > block - process.eigs.guard)
        healthy = record["status"] < Status.DIVERGED
        grow = short & healthy & (not full)
        if full and process.stops_when_full:
            record["status"] = jnp.where(short & healthy, Status.TOO_MANY_TRACKED, record["status"])
        new = jax.lax.cond(
            grow, lambda old, tried: process.retaining(old, tried), lambda _, tried: tried, state, new
        )
        records = jax.tree.map(lambda buffer, value: buffer.at[r].set(value), records, record)
        stopped = record["status"] >= Status.DIVERGED
        return new, records, jnp.where(grow, r, r + 1), grow, stopped

    def go_on(carry: tuple[Any, Record, Array, Array, Array]) -> Bool[Array, ""]:
        return (carry[2] < stop) & ~carry[3] & ~carry[4]

    false = jnp.asarray(False)
    return ChunkResult(*jax.lax.while_loop(go_on, body, (state, empty, start, false, false)))
