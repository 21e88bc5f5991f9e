"""Processes as their options ask for them."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from cflow_cli.curvature.options import EigsOptions
from cflow_cli.engine.linear import LinearProcess
from cflow_cli.engine.minibatch import MinibatchProcess
from cflow_cli.engine.options import Linear, Minibatch, SimulationOptions
from cflow_cli.engine.processes import FlowProcess, Observer, Process
from cflow_cli.errors import UserError
from cflow_cli.problem import Problem

# Weights below which a recompilation for a larger block costs more than the products that a smaller one saves.
_FEW_WEIGHTS = 50_000


def process_of(
    kind: Any,
    problem: Problem,
    optimizer: Any,
    eigs: EigsOptions,
    options: SimulationOptions,
    divisible: bool,
) -> Process[Any]:
    """What is stepped for a kind of process.

    Parameters
    ----------
    kind
        Its options.
    problem, optimizer, eigs, options
        Of the simulation.
    divisible
        Whether a flow may divide its steps further.

    Raises
    ------
    UserError
        If the problem or the optimizer does not have what the process needs.
    """
    measured = options.measurements
    if kind.is_flow:
        return FlowProcess(
            stepper=kind.beside(options.kick).stepper(optimizer, eigs),
            eigs=eigs,
            substeps=kind.substeps,
            measurements=measured,
            watched=kind.holds_the_edge,
            divisible=divisible and not optimizer.is_operator,
        )
    if isinstance(kind, Linear):
        problem.linearised(problem.w0)  # says so where there is no network
        every, branches = jnp.asarray(kind.every, jnp.int32), jnp.asarray(kind.branches)
        return LinearProcess(optimizer, eigs, every, branches, measurements=measured)
    if isinstance(kind, Minibatch):
        examples = problem.num_examples
        if kind.batch_size > examples:
            raise UserError(
                f"processes.minibatch.batch_size={kind.batch_size} is more than the {examples} examples"
                if examples
                else "minibatch needs examples to make batches of, and this problem is a function of the "
                "weights; take it out of the processes"
            )
        key, every = jax.random.PRNGKey(kind.seed), jnp.asarray(kind.every, jnp.int32)
        batches = (key, kind.batch_size, kind.order)
        return MinibatchProcess(optimizer, eigs, every, *batches, measurements=measured)
    return Observer(optimizer, eigs, measured)


def fit_to(eigs: EigsOptions, n: int) -> EigsOptions:
    """Options with the default size of block, or blocks that hold the whole spectrum of a handful of weights."""
    block = eigs.block or min(6 if n < _FEW_WEIGHTS else 4, eigs.max_tracked)
    if n > block:
        return replace(eigs, block=block, max_tracked=min(eigs.max_tracked, n))
    whole = copy(eigs)
    for name, value in {"block": n, "max_tracked": n, "guard_vectors": 0}.items():
        object.__setattr__(whole, name, value)  # no guard is needed, which the checks do not allow
    return whole
