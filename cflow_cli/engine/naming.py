"""Trees of arrays as arrays by name, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from cflow_cli.engine.snapshot import Start
from cflow_cli.errors import UserError
from cflow_cli.problem import Problem


def moved_to(problem: Problem, start: Start) -> Problem:
    """The same problem with the start's weights as its w₀; UserError if they are of another model."""
    if start.weights.shape != problem.w0.shape:
        raise UserError(
            f"cannot start from {len(start.weights)} weights in a model of {problem.num_parameters}; "
            "choose the model and data of the run to start from"
        )
    return eqx.tree_at(lambda p: p.w0, problem, jnp.asarray(start.weights, problem.w0.dtype))


def arrays_by_name(tree: Any, prefix: str) -> dict[str, np.ndarray]:
    """Arrays of a tree by their names in it."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {f"{prefix}.{_path(path)}": np.asarray(leaf) for path, leaf in leaves if eqx.is_array(leaf)}


def filled(form: Any, arrays: Mapping[str, np.ndarray], prefix: str | None = None) -> Any:
    """A tree of the given form with the arrays of those names; None where one is missing or of another shape."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(form)
    found = []
    for path, leaf in leaves:
        if not hasattr(leaf, "shape"):
            found.append(leaf)
            continue
        array = arrays.get(_path(path) if prefix is None else f"{prefix}.{_path(path)}")
        if array is None or array.shape != leaf.shape or array.dtype != leaf.dtype:
            return None
        found.append(jnp.asarray(array))
    return jax.tree_util.tree_unflatten(structure, found)


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
