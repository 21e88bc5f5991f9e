"""Whether derivatives fit into the memory of a device, and how they are taken so that they do.

Nothing but memory, time and the order of sums depends on it. What can be taken apart is, in this order: processes,
which take turns; the directions of a block; the examples, whose slices each make their forward pass again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from cflow_cli.computing import agreed, platform
from cflow_cli.errors import UserError
from cflow_cli.problem import Problem

_T = TypeVar("_T")

GIB = 2**30
_MIB = 2**20
# Of what a device says it has: memory is given out in pieces, and libraries take some of their own.
_USABLE = 0.9
# Rows as long as the weights that the eigensolver has at once per vector of its block: vectors, residuals and changes
# with their products, these stacked, and what is combined of them.
_ROWS_PER_VECTOR = 16
# Third derivatives are taken along one direction or three at once.
_THIRDS = 3

Compile = Callable[[Callable[..., Any], tuple[Any, ...]], int]


class Account(NamedTuple):
    """Bytes that derivatives of a problem need besides the problem itself, by the compiler's own account.

    Parameters
    ----------
    gradient
        Of ∇L.
    products, further_product
        Of a Hessian-vector product, with the linearisation that directions share, and of each direction more.
    third, further_third
        Of ∇(qᵀHq) for one direction, and for each more.
    """

    gradient: int
    products: int
    further_product: int
    third: int
    further_third: int

    def of(self, directions: int) -> int:
        """For as many directions at once: a straight line through one and two."""
        third = self.third + (_THIRDS - 1 if directions >= _THIRDS else 0) * self.further_third
        return max(self.gradient, self.products + (directions - 1) * self.further_product, third)


def needed(program: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
    """Bytes that a program needs besides its arguments, where JAX computes."""
    found = jax.jit(program).lower(*arguments).compile().memory_analysis()
    # A backend without an account of its own is left to the halving of batches when there is no memory.
    return 0 if found is None else int(found.temp_size_in_bytes + found.output_size_in_bytes)


def account(problem: Problem, directions: int = 2, compiled: Compile = needed) -> Account:
    """Have the derivatives compiled, for one direction and for two.

    Parameters
    ----------
    problem
        Its ``at_once`` does not matter.
    directions
        1 for an account of one direction alone, which is half the work.
    compiled
        Gives the bytes that a program of some arguments needs.
    """
    arrays, rest = eqx.partition(problem.in_batches(None, problem.slice_size), eqx.is_array)

    def along(k: int, derivative: Callable[[Problem, Array], Any]) -> int:
        rows = jnp.zeros((k, problem.num_parameters), problem.w0.dtype)
        return compiled(lambda arrays, rows: derivative(eqx.combine(arrays, rest), rows), (arrays, rows))

    def products(problem: Problem, rows: Array) -> Any:
        return problem.linearize(problem.w0).hvp(rows)

    def thirds(problem: Problem, rows: Array) -> Any:
        along = partial(_third, problem)
        return along(rows[0]) if len(rows) == 1 else jax.vmap(along)(rows)

    gradient = along(1, lambda problem, _: problem.gradient(problem.w0))
    one, third = along(1, products), along(1, thirds)
    if directions == 1:
        return Account(gradient, one, one, third, 0)
    # On a CPU third derivatives are taken one by one.
    more = 0 if platform() == "cpu" else along(2, thirds) - third
    return Account(gradient, one, along(2, products) - one, third, more)


def _third(problem: Problem, q: Array) -> Array:
    return problem.third(problem.w0, q, q)


@dataclass(frozen=True)
class Plan:
    """How a simulation's derivatives are taken in the memory that there is.

    Parameters
    ----------
    has
        Bytes of the device that it may use.
    needs
        Bytes that it is estimated to need with its first block of directions, data and path included.
    block
        That number of directions.
    at_once
        Most of them at once; None for all.
    examples
        In a slice; None for all.
    in_turn
        Whether processes wait for each other.
    """

    has: int
    needs: int
    block: int
    at_once: int | None
    examples: int | None
    in_turn: bool

    @property
    def sentence(self) -> str:
        """One line on it, as "block 4 needs 21 of 79 GiB"."""
        said = f"memory: block {self.block} needs {self.needs / GIB:.2g} of {self.has / GIB:.3g} GiB"
        if self.at_once is not None:
            said += f", {self.at_once} direction{'s' * (self.at_once > 1)} at once"
        if self.examples is not None:
            said += f", examples in slices of {self.examples}"
        return said + ", processes in turn" * self.in_turn


def available(problem: Problem, memory_gib: float | None) -> tuple[int, int] | None:
    """Bytes that may be used, and of those in use; None where nobody has set a limit.

    Parameters
    ----------
    problem
        On its device.
    memory_gib
        The user's limit, in GiB; None for the device's.
    """
    device: Any = min(problem.w0.sharding.addressable_devices, key=lambda each: each.id)  # type: ignore[attr-defined]
    told = device.memory_stats() or {}
    limits = [told["bytes_limit"]] if "bytes_limit" in told else []
    limits += [] if memory_gib is None else [int(memory_gib * GIB)]
    own = sum(a.nbytes for a in jax.tree.leaves(problem) if eqx.is_array(a)) // problem.num_devices
    if not limits:
        return None
    # The programs of several nodes must be the same.
    used = max(own, told.get("bytes_in_use", 0))
    has, used = (agreed(number, problem.w0) for number in (min(limits) // _MIB, -(-used // _MIB)))
    return has * _MIB, used * _MIB


def plan(
    problem: Problem, *, block: int, largest: int, processes: int, path: int, memory_gib: float | None
) -> Plan | None:
    """Find out what fits; None where nobody has set a limit.

    Parameters
    ----------
    problem, memory_gib
        As for :func:`available`.
    block, largest
        Directions at the start, and at most.
    processes
        How many may be at work at the same time.
    path
        Bytes of the path that they follow.

    Raises
    ------
    UserError
        If one direction, of a single example where examples can be taken apart, is too much.
    """
    found = available(problem, memory_gib)
    if found is None:
        return None
    has, used = found
    return fitted(
        problem, account, has=has, used=used + path, block=block, largest=largest, processes=processes
    )


def fitted(
    problem: Problem,
    account: Callable[[Problem, int], Account],
    *,
    has: int,
    used: int,
    block: int,
    largest: int,
    processes: int,
) -> Plan:
    """Find out what fits, by an account; see :func:`plan`.

    Parameters
    ----------
    problem
        As it is asked for.
    account
        As the function of that name.
    has, used
        Bytes of memory, and of those in use.
    block, largest, processes
        As for :func:`plan`.
    """
    row = problem.w0.nbytes
    rows = (_ROWS_PER_VECTOR * block + block * (block + 1) // 2) * row
    free = int(_USABLE * has) - used - rows
    examples = problem.slice_size
    one = account(problem, 1).of(1)
    while one > free and problem.can_be_sliced and (examples or problem.num_examples) > 1:
        # In proportion, what is as long as the weights left aside; and half at most, so that it ends.
        share = max(free - row, 0) / max(one - row, 1)
        now = examples or problem.num_examples
        examples = max(1, min(now // 2, int(now * share)))
        problem = problem.in_batches(None, examples)
        one = account(problem, 1).of(1)
    if one > free:
        apart = " of one example" if problem.can_be_sliced else ""
        raise UserError(
            f"derivatives along one direction{apart} need {(used + rows + one) / GIB:.2g} GiB of memory, and there "
            f"are {has / GIB:.2g} GiB; try a smaller model or data set, dtype=float32, or a larger memory_gib where "
            "that is the limit"
        )
    costs = account(problem, 2)
    in_turn = processes > 1 and processes * (costs.of(block) + rows) > free + rows
    room = free if in_turn else (free + rows) // processes - rows
    at_once = max((k for k in range(1, largest + 1) if costs.of(k) <= room), default=1)
    together = min(at_once, block)
    at_work = 1 if in_turn else processes
    return Plan(
        has=has,
        needs=used + at_work * (rows + costs.of(together)),
        block=block,
        at_once=at_once if at_once < largest else None,
        examples=examples,
        in_turn=in_turn,
    )


def exhausted(error: BaseException) -> bool:
    """Whether a device has said that it has no memory left."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def with_room(compute: Callable[[_T], None]) -> Callable[[_T], bool]:
    """The same, which says whether the device had memory for it."""

    def tried(of: _T) -> bool:
        try:
            compute(of)
        except jax.errors.JaxRuntimeError as error:
            if not exhausted(error):
                raise
            return False
        return True

    return tried


def less(problem: Problem, directions: int, step: int) -> tuple[Problem, str]:
    """The problem in batches of half the size, for a device that had no memory for those of before; a sentence on it.

    Parameters
    ----------
    problem
        As it was taken.
    directions
        How many were asked for.
    step
        Where that was.

    Raises
    ------
    UserError
        If there is nothing left to divide.
    """
    had = min(problem.at_once or directions, directions)
    start = "the device has no memory for"
    if had > 1 and platform() != "cpu":
        smaller = problem.in_batches(had // 2, problem.slice_size)
        return smaller, f"{start} {had} directions at once: {had // 2} from step {step} on"
    examples = min(problem.slice_size or problem.num_examples, problem.num_examples)
    if problem.can_be_sliced and examples > 1:
        smaller = problem.in_batches(problem.at_once, examples // 2)
        return smaller, f"{start} {examples} examples at once: slices of {examples // 2} from step {step} on"
    apart = " of a single example" if problem.can_be_sliced else ""
    raise UserError(
        f"the device ran out of memory at step {step}, with derivatives along one direction{apart} at a time; try a "
        "smaller data.n, a smaller model, dtype=float32, or a device with more memory"
    )
