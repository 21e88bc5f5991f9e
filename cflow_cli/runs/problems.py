"""The model of a config, and the problem that it, the data and the loss make. Imports JAX."""

from __future__ import annotations

from typing import Any

import jax
from omegaconf import DictConfig

from cflow_cli.config.building import build
from cflow_cli.config.settings import Settings
from cflow_cli.datasets.dataset import Dataset
from cflow_cli.models import Model, check_pair
from cflow_cli.problem import Problem


def build_problem(cfg: DictConfig, settings: Settings, data: Dataset) -> tuple[Any, Problem]:
    """Build model and problem.

    Parameters
    ----------
    cfg
        Without Hydra's own node.
    settings
        Its top level, checked.
    data
        Built from it.

    Raises
    ------
    UserError
        If the three do not go together.
    """
    model = build(cfg.model, "model", data=data, key=jax.random.PRNGKey(settings.seed))
    loss = build(cfg.loss, "loss")
    check_pair(model, data, loss)
    return model, Problem.from_model(model, data, loss, settings.dtype)


def smoothness_warning(model: Any) -> str | None:
    """What a flow misses on a model that is not smooth; None for one that is."""
    return model.smoothness_warning if isinstance(model, Model) else None
