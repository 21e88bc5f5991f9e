"""Which map an optimizer is, found by stepping it with random gradients: elementwise, an operator, or refused.

Elementwise ones step the flat vector of weights, and their D is a diagonal. All others are given what makes layers and
matrices of it. They are refused where a result of their update is neither odd nor even; where nothing of it moves with
the gradient; and where they act like a sign: there the response with even results held is not the derivative of the
update, which for maps that act like a norm it is, across the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from cflow_cli.errors import UserError
from cflow_cli.optimizers.classify import COUNTER, EVEN, ODD, scheduled_leaves
from cflow_cli.optimizers.operator_map import OperatorMap, Rows, Shape, Split, State, Vector
from cflow_cli.optimizers.parity import MIXED, Line, Program, differences, is_linear, parities
from cflow_cli.optimizers.update_map import UpdateMap

# Steps with random gradients after which an optimizer is looked at: Adafactor's mean of g² is one over some 20 by then.
_STEPS = 60
# Sizes of those gradients: clipping by a norm sets in at some size only.
_SCALES = (1e-3, 1.0, 1e3)
# Most momenta of different kinds, and how well a Krylov space has to hold their response.
_MOST_MOMENTA = 5
_RESIDUAL = 1e-3
# What is left of a vector without its parts along others is rounding below this part of it.
_ROUNDING = 1e-3
# The response with even results held and the true derivative differ by more for maps that act like a sign. Measured:
# 0.000 normalised gradient descent and clipping, 0.03 Shampoo and Adafactor, 1.0 Muon.
_LARGEST_GAP = 0.3

# What is run once or twice is compiled without the passes that would make it fast.
_jit = partial(
    jax.jit,
    compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
)


def map_of(
    transformation: optax.GradientTransformation,
    w: Vector,
    unravel: Callable[[Vector], Any] | None = None,
) -> UpdateMap | OperatorMap:
    """The map of an optimizer: elementwise on the flat vector of weights where it is that, else with D as an operator.

    Parameters
    ----------
    transformation, w, unravel
        As for :func:`operator_map_of`.

    Raises
    ------
    UserError
        If it can step neither.
    """
    if unravel is None or not _tells_layers_apart(transformation, w):
        try:
            elementwise = UpdateMap.of(transformation, w)
        except UserError:
            if unravel is None:
                raise
        else:
            if not elementwise.coupled:
                return elementwise
    return operator_map_of(transformation, w, unravel)


def update_of(
    transformation: optax.GradientTransformation, found: UpdateMap | OperatorMap
) -> Callable[..., Any]:
    """The update of a plain optax loop over flat vectors: as it was given, or on layers."""
    on_layers = isinstance(found, OperatorMap)
    return found.transformation.update if on_layers else transformation.update


def operator_map_of(
    transformation: optax.GradientTransformation,
    w: Vector,
    unravel: Callable[[Vector], Any] | None = None,
) -> OperatorMap:
    """Probe an optax transformation with random gradients of the form of the weights.

    Parameters
    ----------
    transformation
        The optax object, learning rate and sign included.
    w
        Weights, shape (n,): their size and dtype count.
    unravel
        Makes of the flat vector what the transformation steps: matrices, layers; None for the vector itself.

    Raises
    ------
    UserError
        If it cannot step such weights.
    """
    return _probed(transformation, unravel, w.shape[0], w.dtype)


def _tells_layers_apart(transformation: optax.GradientTransformation, w: Vector) -> bool:
    """Whether it treats some leaves of the weights unlike others, by a mask or a label."""
    apart = (optax.MaskedState, optax.transforms.PartitionState)
    try:
        state = jax.eval_shape(transformation.init, w)
    except Exception:  # labels of another tree than a flat vector
        return True
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, apart))
    return any(isinstance(node, apart) for node in nodes)


def flattened(
    transformation: optax.GradientTransformation, unravel: Callable[[Vector], Any] | None
) -> optax.GradientTransformation:
    """The same transformation on flat vectors, which it is given as what ``unravel`` makes of them."""
    return transformation if unravel is None else _flattened(transformation, unravel)


@lru_cache(maxsize=32)
def _flattened(
    transformation: optax.GradientTransformation, unravel: Callable[[Vector], Any]
) -> optax.GradientTransformation:
    def init(w: Any) -> State:
        return transformation.init(unravel(w))

    def update(g: Any, state: State, w: Any = None) -> tuple[Any, State]:
        delta, new = transformation.update(unravel(g), state, None if w is None else unravel(w))
        return ravel_pytree(delta)[0].astype(g.dtype), new

    return optax.GradientTransformation(init, update)


@lru_cache(maxsize=32)
def _probed(
    transformation: optax.GradientTransformation,
    unravel: Callable[[Vector], Any] | None,
    size: int,
    dtype: Any,
) -> OperatorMap:
    flat = flattened(transformation, unravel)
    w = np.random.default_rng(1).standard_normal(size).astype(dtype)
    try:
        points = _points(flat, w)
    except Exception as error:
        raise UserError(
            f"the optimizer cannot step the weights of this model ({type(error).__name__}: {error}); "
            "pass an optax GradientTransformation"
        ) from error
    state = jax.eval_shape(flat.init, w)
    scheduled = scheduled_leaves(state)
    leaves = jax.tree.leaves(state)
    structure = jax.tree.structure(state)

    def whole(g: Any, *rest: Any) -> list[Array]:
        delta, new = flat.update(g, jax.tree.unflatten(structure, rest[:-1]), rest[-1])
        return [*jax.tree.leaves(new), delta]

    program = Program(whole, w, *leaves, w)
    parity = parities(differences(program, points, _jit))
    # A leaf that nothing looks at keeps the place of an even one.
    leaf = [parity.get(p, EVEN) if program.is_float(p) else COUNTER for p in program.inputs[1:-1]]
    own = tuple(EVEN if p == MIXED else p for p in leaf)
    refusal = _uneven(program, parity)
    if refusal is not None:
        return OperatorMap(flat, size, dtype, own, refusal, scheduled)
    shape = Shape(_split(program, parity, own, scheduled))
    return _examined(OperatorMap(flat, size, dtype, own, None, scheduled, shape), points[1][0], unravel)


def _points(flat: optax.GradientTransformation, w: np.ndarray) -> list[tuple[list[Any], list[Any]]]:
    """Arguments (g, state, w) after steps with random gradients of several sizes, and those of their negatives."""

    @_jit
    def arguments(gs: Array, w: Array) -> list[Array]:
        state, _ = jax.lax.scan(lambda s, g: (flat.update(g, s, w)[1], None), flat.init(w), gs[:-1])
        return [gs[-1], *jax.tree.leaves(state), w]

    rng = np.random.default_rng(0)
    out = []
    for scale in _SCALES:
        gs = (scale * rng.standard_normal((_STEPS + 1, w.size))).astype(w.dtype)
        out.append((arguments(gs, w), arguments(-gs, -w)))
    return out


def _uneven(program: Program, parity: dict[int, str]) -> str | None:
    """A refusal where a result is neither odd nor even, or the step is not odd."""
    for line in program.lines:
        if any(parity[o] == MIXED for o in line.outputs) and all(
            parity.get(i, EVEN) != MIXED for i in line.inputs
        ):
            return (
                f"its update neither keeps nor flips its sign with the gradient (from the primitive "
                f"{line.name} on), so nothing of it can be averaged over an oscillation"
            )
    if parity.get(program.outputs[-1]) != ODD:
        return "its update does not flip its sign with the gradient (a random or lopsided update)"
    if any(parity.get(p) == MIXED for p in program.inputs):
        return "its state neither keeps nor flips its sign with the gradient (a random or lopsided update)"
    return None


def _split(
    program: Program, parity: dict[int, str], own: tuple[str, ...], scheduled: tuple[bool, ...]
) -> Split:
    """Sort the lines of a program."""
    parity = dict.fromkeys(program.constants, EVEN) | parity
    timed = {p for p, s in zip(program.inputs[1:-1], scheduled, strict=True) if s} | set(program.constants)
    clock = []
    for line in program.lines:
        if all(i in timed for i in line.inputs):
            timed.update(line.outputs)
            clock.append(line)
    moving = {program.inputs[0]} | {p for p, o in zip(program.inputs[1:-1], own, strict=True) if o == ODD}
    lines = []
    for line in program.lines:
        if any(i in moving for i in line.inputs) and any(parity[o] == ODD for o in line.outputs):
            moving.update(o for o in line.outputs if parity[o] == ODD)
            lines.append(line)
    *leaves, delta = program.outputs
    needed = {delta} | {o for o, p in zip(leaves, own, strict=True) if p == ODD}
    response: list[Line] = []
    held: dict[int, None] = {}
    for line in reversed(lines):
        if needed & set(line.outputs):
            response.append(line)
            needed.update(i for i in line.inputs if i in moving)
            linear = is_linear(line, parity)
            held |= dict.fromkeys(i for i in line.inputs if i not in timed and not (linear and i in moving))
    return Split(program, parity, tuple(clock), tuple(response[::-1]), tuple(held))


def _examined(built: OperatorMap, point: list[Any], unravel: Callable[[Vector], Any] | None) -> OperatorMap:
    """The map with the number of its momenta, or refused because its D is not what an oscillation sees."""
    g, *leaves, w = point
    structure = jax.tree.structure(jax.eval_shape(built.init, w))
    rows = np.random.default_rng(2).standard_normal((3, built.size)).astype(built.dtype)

    @_jit
    def look(g: Array, leaves: list[Array], w: Array, rows: Array) -> Any:
        state = jax.tree.unflatten(structure, leaves)
        even = built.held(state, g, w)
        clock = built.timed(even.clock)
        _, delta = built(state, g, w)
        along = jnp.stack([g, -built.linear(even, clock, {built.odd_inputs[0]: delta[None]})[-1][0]])
        across = jax.vmap(lambda row: _across(row, along, unravel))(rows)
        true = jax.vmap(lambda v: jax.jvp(lambda g: built(state, g, w)[1], (g,), (v,))[1])(across)
        held = built.linear(even, clock, {built.odd_inputs[0]: across})[-1]
        *b, everywhere = built.linear(even, clock, {built.odd_inputs[0]: rows})
        powers = [b]
        for _ in range(_MOST_MOMENTA if b else 0):
            inputs = dict(zip(built.odd_inputs[1:], powers[-1], strict=True))
            powers.append(built.linear(even, clock, inputs)[:-1])
        flat = [jnp.concatenate([x.reshape(len(rows), -1) for x in p], 1) for p in powers] if b else []
        return everywhere, held, true, flat

    everywhere, held, true, flat = jax.device_get(look(g, leaves, w, rows))
    if not np.linalg.norm(everywhere) > 0:
        return replace(
            built, refusal="its update has no derivative in the gradient (sign-like), so D is zero"
        )
    gap = np.linalg.norm(held - true) / max(float(np.linalg.norm(held)), np.finfo(built.dtype).tiny)
    if not gap <= _LARGEST_GAP:
        refusal = (
            "its update acts on the gradient like a sign: its response with norms and second moments held is not that "
            f"of the update itself (they differ by {gap:.2g} of it)"
        )
        return replace(built, refusal=refusal)
    momenta = _dimension(flat)
    if momenta is None:
        return replace(built, refusal=f"its momenta are of more than {_MOST_MOMENTA} kinds")
    built = replace(built, momenta=momenta)

    @_jit
    def products(g: Array, leaves: list[Array], w: Array, rows: Array) -> Array:
        state = jax.tree.unflatten(structure, leaves)
        return built.response(built.held(state, g, w), rows)[0]

    curved = np.sum(rows * jax.device_get(products(g, leaves, w, rows)), axis=1)
    if not np.all(curved > 0):
        return replace(built, refusal="its response to an oscillation is not positive, so D is no step size")
    return built


def _across(row: Vector, along: Rows, unravel: Callable[[Vector], Any] | None) -> Vector:
    """A row without its parts along others in each layer: along them norms change, which an oscillation holds."""

    def without(x: Array, basis: list[Array]) -> Array:
        """What is left of a vector, or zero where that is rounding."""
        rest = x - sum((b * jnp.vdot(b, x) for b in basis), jnp.zeros_like(x))
        return jnp.where(jnp.linalg.norm(rest) > _ROUNDING * jnp.linalg.norm(x), rest, 0)

    def leaf(x: Array, *others: Array) -> Array:
        basis: list[Array] = []
        for other in others:
            rest = without(other.ravel(), basis)
            size = jnp.linalg.norm(rest)
            basis.append(rest / jnp.where(size > 0, size, 1))
        return without(x.ravel(), basis).reshape(x.shape)

    layers = unravel or (lambda x: x)
    return ravel_pytree(jax.tree.map(leaf, layers(row), *(layers(a) for a in along)))[0]


def _dimension(powers: list[np.ndarray]) -> int | None:
    """How many powers of F_s on F_g g̃ hold the solution of −s̃ = F_s s̃ + F_g g̃; None if more than are given."""
    if not powers or not np.any(powers[0]):
        return 0
    for momenta in range(1, len(powers)):
        worst = 0.0
        for row, target in enumerate(powers[0].astype(float)):
            basis = np.stack([powers[i][row] + powers[i + 1][row] for i in range(momenta)], 1).astype(float)
            basis /= np.maximum(np.linalg.norm(basis, axis=0), np.finfo(float).tiny)
            rest = target - basis @ np.linalg.lstsq(basis, target, rcond=None)[0]
            worst = max(worst, float(np.linalg.norm(rest) / np.linalg.norm(target)))
        if worst < _RESIDUAL:
            return momenta
    return None
