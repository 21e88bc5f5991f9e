"""Memory that the paper's networks need on a GPU, by the compiler's own account: ``python -m benchmarks.memory``.

Each has 1,000 examples of full size (images of 32×32 pixels; strings of the sorting task for token models) in float32,
and a block of eight directions. Nothing is computed on a GPU, and none has to be there: with ``--h100`` JAX's CUDA
plug-in compiles the programs for one (``make gpu-check`` fetches it, and says to it what has to be said). Otherwise the
account is that of the CPU's compiler for the programs that a CPU gets, where directions are taken in turn.

Libraries' own workspaces are not in it: which algorithms cuDNN and cuBLAS take is decided on the GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from hydra.utils import instantiate
from omegaconf import OmegaConf

from cflow_cli import Problem
from cflow_cli.computing import as_for, beside
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.datasets import Dataset
from cflow_cli.datasets.sorting import sorting
from cflow_cli.engine import memory
from cflow_cli.engine.chunk import run_chunk
from cflow_cli.engine.simulation import Simulation
from cflow_cli.losses import mse
from cflow_cli.report.tables import markdown

CONF = Path(__file__).parents[1] / "conf" / "model"
N = 1000
BLOCK = 8
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"widths": [256, 256]},
    **{name: {} for name in ("cnn", "resnet", "vit", "lstm", "transformer", "mamba")},
}
TOKENS = ("lstm", "transformer", "mamba")
CARD_GIB = 24
# What XLA asks of a device before it compiles for it, as NVIDIA states it of an H100 SXM.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84942979072
  l2_cache_size: 52428800
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  threads_per_warp: 32
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def h100() -> Any:
    """An H100 to compile for, which need not be there."""
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1").devices[0]
    except NotImplementedError:
        sys.exit("JAX has no CUDA plug-in here; make gpu-check fetches one into a folder of its own")


def needed_on(device: Any) -> memory.Compile:
    """Bytes that a program of some arguments needs there."""
    place = jax.sharding.SingleDeviceSharding(device)

    def needed(program: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), arguments)
        return memory.needed(program, shapes)

    return needed


def problem_of(name: str) -> Problem:
    """A model of full size with as many examples as the paper has."""
    images = Dataset(
        x=np.random.default_rng(0).normal(size=(N, 32, 32, 3)).astype(np.float32),
        y=(np.arange(N) % 4).astype(np.int32),
        task="classification",
        input_shape=(32, 32, 3),
        num_outputs=4,
        name="images",
    )
    data = sorting(n=N) if name in TOKENS else images
    cfg = OmegaConf.load(CONF / f"{name}.yaml")
    model = instantiate(cfg, data=data, key=jax.random.PRNGKey(0), **MODELS[name])
    return Problem.from_model(model, data, mse(), "float32")


def step(problem: Problem, compiled: memory.Compile) -> int:
    """Bytes of the program that takes the central flow through a chunk."""
    simulation = Simulation(
        problem,
        optax.sgd(0.02),
        processes=("central",),
        measurements=("evaluation",),
        eigs=EigsOptions(block=BLOCK),
        steps=1,
    )
    run = simulation._running["central"]
    run.begin(simulation._initial(run, simulation.discrete, BLOCK), 0)
    zero = jnp.zeros((), jnp.int32)
    path = jax.eval_shape(lambda: simulation.take_path(1, 1)[1])
    arguments = (run.process, simulation.problem, simulation.context, run.state, path, zero, zero, zero, zero)
    is_array = lambda a: eqx.is_array(a) or isinstance(a, jax.ShapeDtypeStruct)  # noqa: E731
    arrays, rest = eqx.partition(arguments, is_array)
    return compiled(
        lambda arrays: eqx.filter(run_chunk.__wrapped__(*eqx.combine(arrays, rest)), eqx.is_array), (arrays,)
    )


def fitted(problem: Problem, found: memory.Account) -> memory.Plan:
    """What is done on a card."""
    has, same = int(CARD_GIB * memory.GIB), lambda *_: found
    return memory.fitted(problem, same, has=has, used=0, block=BLOCK, largest=32, processes=1)


def rows(names: list[str], device: Any, steps: bool) -> Iterator[list[Any]]:
    """A row of the table for each model."""
    compiled = memory.needed if device is None else needed_on(device)
    for name in names:
        problem, began = problem_of(name), time.monotonic()
        with beside(problem.w0), nullcontext() if device is None else as_for("gpu"):
            found = memory.account(problem, compiled=compiled)
            whole = step(problem, compiled) if steps else None
            plan = fitted(problem, found)
        gib = [found.gradient, found.of(1), found.further_product, found.of(BLOCK), plan.needs]
        yield [
            name,
            problem.num_parameters,
            *(f"{b / memory.GIB:.2f}" for b in gib),
            *([] if whole is None else [f"{whole / memory.GIB:.2f}"]),
            min(plan.at_once or BLOCK, BLOCK),
        ]
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL", help="of these models"
    )
    parser.add_argument("--h100", action="store_true", help="as for a GPU, by the compiler for it")
    parser.add_argument(
        "--steps", action="store_true", help="a central step, too, which takes long to compile"
    )
    chosen = parser.parse_args()
    device = h100() if chosen.h100 else None
    headings = ["model", "weights", "gradient", "one direction", "each further", f"block of {BLOCK}"]
    headings += [f"needs on {CARD_GIB} GiB", *["central step"] * chosen.steps, f"at once on {CARD_GIB} GiB"]
    print(markdown(headings, list(rows(chosen.only, device, chosen.steps))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
