"""Fully connected networks of any depth, named by depth and width instead of a list of widths."""

from __future__ import annotations

from jaxtyping import PRNGKeyArray

from cflow_cli.datasets.dataset import Dataset
from cflow_cli.models.base import flat_size, positive
from cflow_cli.models.mlp import MLP
from cflow_cli.models.parametrisation import SIGMA_B, SIGMA_W


def fully_connected(
    data: Dataset,
    key: PRNGKeyArray,
    depth: int = 6,
    width: int = 32,
    activation: str = "tanh",
    bias: bool = True,
    output_scale: float = 1.0,
    init_scale: float = 1.0,
    parametrisation: str = "standard",
    sigma_w: float = SIGMA_W,
    sigma_b: float = SIGMA_B,
    bottleneck: int | None = None,
    output: str = "linear",
) -> MLP:
    """An ``MLP`` with ``depth`` linear layers, those between of ``width`` units; other arguments as there.

    Raises
    ------
    UserError
        If an option is not allowed.
    """
    positive(depth=depth, width=width)
    flat_size(data, "fc")
    return MLP(
        data,
        key,
        widths=[width] * (depth - 1),
        activation=activation,
        bias=bias,
        output_scale=output_scale,
        init_scale=init_scale,
        parametrisation=parametrisation,
        sigma_w=sigma_w,
        sigma_b=sigma_b,
        bottleneck=bottleneck,
        output=output,
    )
