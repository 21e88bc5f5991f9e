"""Whether a model, a data set and a loss go together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from cflow_cli.datasets.dataset import Dataset
from cflow_cli.errors import UserError
from cflow_cli.losses import CrossEntropy, Loss


def check_pair(model: Callable[..., Any], data: Dataset, loss: Loss) -> None:
    """Check by shapes alone, without compiling, that the loss of the model on the data makes sense.

    Models check their data when built; this checks what no constructor can see.

    Parameters
    ----------
    model
        Acts on a batch.
    data
        Training data, and test data if any.
    loss
        What compares outputs with targets.

    Raises
    ------
    UserError
        If the loss is not one for the task, or the outputs do not fit the targets.
    """
    if isinstance(loss, CrossEntropy) and data.task in ("regression", "entries"):
        has = "a regression task" if data.task == "regression" else "made of numbers"
        raise UserError(f"loss cross_entropy needs classes, but data {data.name} is {has}: choose loss=mse")
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))}
    dtype = dtypes.pop() if len(dtypes) == 1 else jax.numpy.float32
    numbered = data.task == "tokens" or (data.task == "entries" and data.x.dtype.kind in "iu")
    x = jax.ShapeDtypeStruct(data.x.shape, data.x.dtype if numbered else dtype)
    try:
        outputs = eqx.filter_eval_shape(model, x)
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"the model cannot act on data {data.name} with inputs of shape {data.input_shape}: "
            f"{str(error).splitlines()[0]}"
        ) from None
    positions = data.input_shape if data.task == "tokens" else ()
    wanted = (len(data), *positions, data.num_outputs)
    found = outputs.shape if isinstance(outputs, jax.ShapeDtypeStruct) else type(outputs).__name__
    if found != wanted:
        raise UserError(
            f"the model's outputs on data {data.name} must be one array of shape {wanted}, got {found}"
        )
