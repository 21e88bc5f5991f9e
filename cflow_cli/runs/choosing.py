"""Which device ``device=auto`` takes: the one on which a step of the central flow takes less time.

A GPU computes a large problem tens of times faster than a core, but each kernel has to be launched, and a step of a
small problem is hundreds of them: then a core is done before.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax

from cflow_cli import together
from cflow_cli.config.settings import Settings
from cflow_cli.objectives import ModelObjective
from cflow_cli.problem import Problem

# Gradients that a step of the central flow costs, its derivatives counted in them (docs/performance.md).
_GRADIENTS = 15
# Seconds in which a GPU launches the 350 kernels of such a step and its host decides what comes next: what is left of a
# step whose arithmetic is none.
_LAUNCHES = 4.5e-3
# Operations in a second: of one core, as gradients of small MLPs were measured, and of a GPU, a tenth of what one for
# data centres has at its best.
_CORE = {"float32": 8e10, "float64": 4e10}
_GPU = {"float32": 5e12, "float64": 2.5e12}


def operations(problem: Problem) -> float:
    """Floating-point operations of a gradient, as XLA counts those of its program.

    It counts the body of a loop once: slices are multiplied in, and a network that is a loop over positions has at
    least the 4 operations for each weight and term of the loss with which a dense layer goes forward and back.

    Parameters
    ----------
    problem
        From a model and data.
    """
    arrays, rest = eqx.partition(problem, eqx.is_array)

    def gradient(own: Any) -> Any:
        whole = eqx.combine(own, rest)
        return whole.gradient(whole.w0)

    counted = jax.jit(gradient).lower(arrays).cost_analysis() or {}
    objective = problem.objective
    slices = objective.slices(problem.num_examples) if isinstance(objective, ModelObjective) else 1
    dense = 4.0 * problem.num_parameters * max(problem.num_terms, problem.num_examples)
    return max(float(counted.get("flops", 0.0)) * slices, dense)


def seconds(work: float, dtype: str) -> tuple[float, float]:
    """Of a step of the central flow, on a core of the CPU and on a GPU.

    Parameters
    ----------
    work
        Operations of a gradient.
    dtype
        float32 or float64.
    """
    return _GRADIENTS * work / _CORE[dtype], _LAUNCHES + _GRADIENTS * work / _GPU[dtype]


def choose(problem: Problem, settings: Settings) -> tuple[Any, str | None]:
    """The CPU where JAX would take a GPU though the CPU is faster, else None; and a sentence where there was a choice.

    Parameters
    ----------
    problem
        From a model and data, on the device that JAX takes by itself.
    settings
        Of the run.
    """
    if (
        settings.device != "auto"
        or settings.devices != 1
        or together.count() > 1
        or jax.default_backend() != "gpu"
    ):
        return None, None
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None, None  # JAX_PLATFORMS leaves none
    on_core, on_gpu = seconds(operations(problem), settings.dtype)
    times = (
        f"a step of the central flow takes about {1e3 * on_core:.2g} ms on a core of the CPU and "
        f"{1e3 * on_gpu:.2g} ms on the GPU"
    )
    if on_core < on_gpu:
        return (
            cpu,
            f"device=auto takes the CPU: {times}, most of it for launching kernels; device=gpu takes the GPU",
        )
    return None, f"device=auto takes the GPU: {times}"
