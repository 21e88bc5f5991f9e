"""Preparing what ``cflow kernel`` computes, while nothing is on disk: which kernels, between which inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from cflow_cli.config.building import build
from cflow_cli.config.checking import Checked, check
from cflow_cli.datasets.npz import memory
from cflow_cli.errors import UserError
from cflow_cli.kernels.duals import dual
from cflow_cli.kernels.options import KernelOptions
from cflow_cli.losses import MSE
from cflow_cli.models.limit import Limit
from cflow_cli.runs import assembling, branching
from cflow_cli.runs.devices import configure_jax
from cflow_cli.runs.run import choices_of, describe_device


@dataclass(frozen=True)
class PreparedKernel:
    """Kernels that are ready to be computed.

    Parameters
    ----------
    cfg, checked
        The config, without Hydra's own node, and what was built of it.
    data
        The data set.
    trained
        Model, loss and problem.
    limit
        The infinitely wide network; None where only empirical kernels are wanted of a model that has none.
    weights
        Of empirical kernels, where a run has reached them; None for those of the seeds.
    device
        The device, and in words.
    choices
        Group -> choice.
    notes
        Sentences to be told.
    """

    cfg: DictConfig
    checked: Checked
    data: Any
    trained: assembling.Trained
    limit: Limit | None
    weights: NDArray | None
    device: tuple[Any, str]
    choices: dict[str, str]
    notes: tuple[str, ...] = field(default=())

    @property
    def options(self) -> KernelOptions:
        """Which kernels."""
        assert self.checked.kernel is not None
        return self.checked.kernel

    @property
    def depth(self) -> int:
        """Depths of the kernels of infinite width; none where none are wanted."""
        return self.limit.depth if self.limit is not None and self.options.infinite else 0

    @property
    def readouts(self) -> tuple[str, ...]:
        """Output layers whose kernels come at no further cost: with ``gap`` also ``flatten``, not the other way."""
        if self.limit is None or self.limit.readout == "gap":
            return () if self.limit is None else ("gap", "flatten")
        return (self.limit.readout,)

    @property
    def inputs(self) -> NDArray:
        """Training inputs, and after them those of the test split."""
        return self.data.x if self.data.x_test is None else np.concatenate([self.data.x, self.data.x_test])


def prepare(
    cfg: DictConfig, choices: dict[str, str] | None = None, folder: Path | None = None
) -> PreparedKernel:
    """Build everything that is needed, short of the folder; see :func:`cflow_cli.runs.run.prepare`.

    Raises
    ------
    UserError
        One sentence on what cannot be done.
    """
    checked = check(cfg)
    assert checked.kernel is not None
    settings, options = checked.settings, checked.kernel
    if settings.devices != 1:
        raise UserError("a kernel is computed on one device: leave out devices=")
    data = build(cfg.data, "data")
    if data.task == "tokens":
        raise UserError(
            f"data {data.name} is made of tokens; kernels are computed here between vectors or images"
        )
    start, notes = branching.point(settings.init, folder)
    if start is not None and options.seeds > 1:
        raise UserError("init.from= gives one network, so kernel.seeds must be 1")
    device = configure_jax(settings)
    with jax.default_device(device):
        trained = assembling.trained(cfg, checked, data)
    if not isinstance(trained.loss, MSE):
        raise UserError("regression with a kernel minimises squares: leave out loss=, or take loss=mse")
    choices = {key: name for key, name in (choices or choices_of(cfg)).items() if key in ("model", "data")}
    limit = trained.model.limit if hasattr(trained.model, "limit") else None
    if options.infinite and limit is None:
        raise UserError(
            f"no infinite-width limit is known here for model={choices.get('model', 'it')} with these keys; there is "
            "one of mlp and fc, without bottleneck or output, and of plain_cnn; kernel.kinds=[empirical] is for any"
        )
    if limit is not None and options.infinite:
        dual(limit.activation)  # refuses one that has none
    if start is not None and len(start.weights) != trained.problem.num_parameters:
        raise UserError(
            f"init.from={settings.init.source}: its network has {len(start.weights)} parameters, this one "
            f"{trained.problem.num_parameters}; give model= and data= as that run had them"
        )
    if limit is not None and limit.few_inputs is not None and options.infinite:
        notes = (
            *notes,
            f"sums of {limit.few_inputs} uniform weights are not Gaussian, so networks of any width differ from this "
            "limit: take model.parametrisation=ntk",
        )
    used = next(iter(trained.problem.w0.devices()))
    weights = None if start is None else start.weights
    prepared = PreparedKernel(
        cfg, checked, data, trained, limit, weights, (device, describe_device(used)), choices, notes
    )
    _check_memory(prepared)
    return prepared


def _check_memory(prepared: PreparedKernel) -> None:
    """Check that the matrices, and those of the eigenvalue problem, fit into memory."""
    most = memory()
    needed = bytes_needed(prepared, len(prepared.data.x), len(prepared.inputs))
    if needed <= most:
        return
    n, classes = len(prepared.data.x), prepared.data.num_outputs
    tests = len(prepared.inputs) - n
    fitting = [n for n in range(classes, n, classes) if bytes_needed(prepared, n, n + tests) <= most]
    fits = f"data.n={fitting[-1]} fits" if fitting else "with fewer test examples, data.n_test=, it may fit"
    raise UserError(
        f"kernels between {len(prepared.data.x)} training and {len(prepared.inputs)} examples in all need "
        f"{needed / 1e9:.3g} GB of memory, and there are {most / 1e9:.3g} GB; {fits}"
    )


def bytes_needed(prepared: PreparedKernel, n: int, total: int) -> int:
    """Memory for n training examples of ``total``: all matrices, and four in float64 for the eigenvalues of one."""
    options = prepared.options
    infinite = len(options.infinite) * len(prepared.readouts) * prepared.depth * n * total
    empirical = ("empirical" in options.kinds) * options.seeds * total**2
    return (infinite + empirical) * np.dtype(prepared.checked.settings.dtype).itemsize + 4 * 8 * n**2
