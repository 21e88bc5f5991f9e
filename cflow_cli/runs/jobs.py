"""What a config asks for: a run, or with a ``kernel`` node what ``cflow kernel`` computes.

Launching, sweeps and figures prepare and execute either alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from cflow_cli.runs import run
from cflow_cli.runs.run import Prepared, RunResult
from cflow_cli.runs.tracking import Describe

if TYPE_CHECKING:
    from cflow_cli.runs.kernel import KernelJob


def prepare(
    cfg: DictConfig, choices: dict[str, str] | None = None, folder: Path | None = None
) -> Prepared | KernelJob:
    """Build everything that is needed, short of a folder; as :func:`cflow_cli.runs.run.prepare`."""
    if "kernel" not in cfg:
        return run.prepare(cfg, choices, folder)
    # JAX, which is set up for the device that the config names.
    from cflow_cli.runs import kernel

    return kernel.prepare(cfg, choices, folder)


def execute(prepared: Prepared | KernelJob, folder: Path, *, describe: Describe | None = None) -> RunResult:
    """Do it in a folder, whose manifest says how it ended; as :func:`cflow_cli.runs.run.execute`."""
    if isinstance(prepared, Prepared):
        return run.execute(prepared, folder, describe=describe)
    return prepared.execute(folder)
