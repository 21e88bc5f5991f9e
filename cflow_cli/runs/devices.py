"""JAX's settings: the device, its precision and the cache of compiled programs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from cflow_cli.config.settings import Settings
from cflow_cli.errors import UserError


def configure_jax(settings: Settings) -> Any:
    """Set precision, cache and platform before the first array is made; the device, None for JAX's choice."""
    kind, _, index = settings.device.partition(":")
    # A run on the CPU must not touch the GPUs: starting their runtime costs a second and their memory.
    if kind == "cpu" and "jax" not in sys.modules:
        os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    jax.config.update("jax_enable_x64", settings.dtype == "float64")
    # TF32 and bfloat16 passes have three digits: not enough for eigenvalues that are compared with 2.
    jax.config.update("jax_default_matmul_precision", "highest")
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(compilation_cache_dir()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    if kind == "auto":
        return None
    try:
        found = jax.devices(kind)
    except RuntimeError:
        here = sorted({device.platform for device in jax.devices()})
        extra = "; for an NVIDIA GPU: pip install 'cflow-cli[cuda]'" if kind in ("gpu", "cuda") else ""
        raise UserError(
            f"device={settings.device}: JAX has no {kind} here, only {', '.join(here)}{extra}"
        ) from None
    if int(index or 0) >= len(found):
        names = ", ".join(f"{kind}:{i}" for i in range(len(found)))
        raise UserError(f"device={settings.device}: there is only {names}")
    return found[int(index or 0)]


def several_devices(settings: Settings) -> list[Any]:
    """The devices that share the data; none where one has it all."""
    import jax

    kind, _, index = settings.device.partition(":")
    if settings.devices == 1:
        return []
    if index:
        raise UserError(
            f"device={settings.device} is one device; with devices= give only its kind: device={kind}"
        )
    found = jax.devices(None if kind == "auto" else kind)
    wanted = settings.devices or len(found)
    if wanted > len(found):
        raise UserError(f"devices={wanted}: JAX sees only {len(found)} here; devices=all takes what there is")
    return list(found[:wanted]) if wanted > 1 else []


def compilation_cache_dir() -> Path:
    """Folder of compiled programs: a second run starts in a fraction of the time of the first.

    ``$JAX_COMPILATION_CACHE_DIR`` replaces it. Each kind of CPU has its own: homes are shared between
    machines, and a program compiled for one can crash another.
    """
    kind = platform.machine() + platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        kind += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return user_cache_path("cflow", appauthor=False) / "jax" / hashlib.sha256(kind.encode()).hexdigest()[:12]
