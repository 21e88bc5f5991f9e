"""Where and how precisely JAX computes, which holds in whatever thread a program is traced and run."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import platform as machine
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from platformdirs import user_cache_path

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_looked_at_for: str | None = None
_Tree = TypeVar("_Tree")


@contextlib.contextmanager
def beside(array: jax.Array) -> Iterator[None]:
    """Compute where an array is, in full precision.

    TF32 and passes of bfloat16 have three digits: not enough for eigenvalues that are compared with 2. Both settings
    belong to a thread, and are part of what JAX knows a compiled program by.

    Parameters
    ----------
    array
        Of any shape; of several devices that share it, the first of this program's own is meant.
    """
    own: set[Any] = array.sharding.addressable_devices
    first = min(own, key=lambda device: device.id)
    with jax.default_device(first), jax.default_matmul_precision("highest"):
        yield


def beside_problem(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """A function whose first argument is a problem, :func:`beside` the weights of it."""

    @functools.wraps(function)
    def there(*args: _Arguments.args, **settings: _Arguments.kwargs) -> _Result:
        problem: Any = args[0] if args else settings["problem"]
        with beside(problem.w0):
            return function(*args, **settings)

    return there


@contextlib.contextmanager
def as_for(kind: str) -> Iterator[None]:
    """Trace programs as for a platform that need not be there, to see what its compiler is given.

    Parameters
    ----------
    kind
        As "gpu", in all threads. What JAX has traced before and kept stays as it is.
    """
    global _looked_at_for
    before, _looked_at_for = _looked_at_for, kind
    try:
        yield
    finally:
        _looked_at_for = before


def agreed(value: int, array: jax.Array) -> int:
    """A number as the first of the programs that share an array has it, such as one that came from its clock."""
    if array.is_fully_addressable:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def whole(tree: _Tree) -> _Tree:
    """A tree of arrays of which each program has all, also those that are divided among the devices of several."""

    def of(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return leaf
        everywhere = jax.sharding.NamedSharding(leaf.sharding.mesh, jax.sharding.PartitionSpec())  # type: ignore[attr-defined]
        return jax.jit(lambda a: a, out_shardings=everywhere)(leaf)

    return jax.tree.map(of, tree)


def platform() -> str:
    """What is being traced is to run on, as "cpu": that of :func:`beside`, elsewhere JAX's own choice."""
    if _looked_at_for is not None:
        return _looked_at_for
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    return jax.default_backend() if device is None else str(getattr(device, "platform", device))


def keep_programs(least_seconds: float = 0.1) -> None:
    """Keep compiled programs on disk, unless JAX has been told where: a second run starts in a fraction of the time.

    Parameters
    ----------
    least_seconds
        What is compiled faster is not kept.
    """
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least_seconds)
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(programs()))
        reset_cache()  # JAX asks once whether there is one, when it first compiles


def programs() -> Path:
    """Folder of compiled programs, which ``$JAX_COMPILATION_CACHE_DIR`` replaces.

    Each kind of CPU has its own: homes are shared between machines, and a program compiled for one can crash another.
    """
    kind = machine.machine() + machine.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        kind += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return user_cache_path("cflow", appauthor=False) / "jax" / hashlib.sha256(kind.encode()).hexdigest()[:12]
