"""JAX's settings: the device, its precision, and programs that are kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from cflow_cli import together
from cflow_cli.config.settings import Settings
from cflow_cli.errors import UserError


def join(settings: Settings) -> None:
    """Meet the other programs that compute the run, where there are to be any; before anything is read or written.

    Parameters
    ----------
    settings
        With the place to meet at, and the kind of device.

    Raises
    ------
    UserError
        If they do not come together.
    """
    if settings.distributed.coordinator is None or together.count() > 1:
        return
    hide_gpus({settings.device})
    # JAX, which is loaded with the platforms that are there for it.
    from cflow_cli.runs import meeting

    meeting.meet(settings.distributed)


def hide_gpus(wanted: Collection[str]) -> None:
    """Have a command on the CPU alone not touch the GPUs: starting their runtime costs a second and their memory.

    JAX then never finds them in this process, and in those that it starts: all that they are to compute must be known.

    Parameters
    ----------
    wanted
        The ``device`` of every run of the command.
    """
    if {device.partition(":")[0] for device in wanted} == {"cpu"} and "jax" not in sys.modules:
        os.environ["JAX_PLATFORMS"] = "cpu"


def in_sweep() -> bool:
    """Whether this is a run of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def configure_jax(settings: Settings) -> Any:
    """Set precision, cache and platform before the first array is made; the device, None for JAX's choice."""
    kind, _, index = settings.device.partition(":")
    # Another run of a sweep may be on a GPU, in this very process; whoever launches it has seen all of them.
    if not in_sweep():
        hide_gpus({settings.device})
    import jax

    from cflow_cli.computing import keep_programs

    jax.config.update("jax_enable_x64", settings.dtype == "float64")
    # What is computed outside the engine, as kernels are, has no context of its own; see cflow_cli.computing.
    jax.config.update("jax_default_matmul_precision", "highest")
    keep_programs()
    if kind == "auto":
        return None
    try:
        found = jax.local_devices(backend=kind)
    except RuntimeError:
        here = sorted({device.platform for device in jax.devices()})
        extra = (
            "; for an NVIDIA GPU: pip install 'cflow-cli[cuda]' (cuda13 for CUDA 13)"
            if kind in ("gpu", "cuda")
            else ""
        )
        raise UserError(
            f"device={settings.device}: JAX has no {kind} here, only {', '.join(here)}{extra}"
        ) from None
    if int(index or 0) >= len(found):
        names = ", ".join(f"{kind}:{i}" for i in range(len(found)))
        raise UserError(f"device={settings.device}: there is only {names}")
    return found[int(index or 0)]
