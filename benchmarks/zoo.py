"""What the derivatives of every model cost, and a short run of each: ``python -m benchmarks.zoo --data PATH``.

Sizes are mini: the paper's shapes, small enough for two CPU cores. Times are processor time per call, measured as a
run spends it: inside a compiled loop, Hessian-vector products along four directions at once, third derivatives one
pair after the other. The run is gradient descent on the mean squared error with its stable and central flow.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hydra.utils import instantiate
from omegaconf import OmegaConf

from cflow_cli import Problem, simulate
from cflow_cli.allocation import keep_freed_memory
from cflow_cli.datasets import Dataset
from cflow_cli.datasets.chebyshev import chebyshev
from cflow_cli.datasets.cifar10 import cifar10
from cflow_cli.datasets.sorting import sorting
from cflow_cli.errors import UserError
from cflow_cli.losses import mse
from cflow_cli.report import definitions as define

CONF = Path(__file__).parents[1] / "conf" / "model"
DIRECTIONS = 4
HVP_LIMIT, THIRD_LIMIT = 3.5, 9.0


@dataclass(frozen=True)
class Case:
    """A model at mini size on its natural data, and a learning rate that takes it to the edge."""

    data: str
    lr: float
    steps: int = 200
    options: dict[str, Any] = field(default_factory=dict)


CASES = {
    "mlp": Case("images", 0.15, 250, {"widths": [32, 32]}),
    "fc": Case("chebyshev", 0.3, 300, {"depth": 4, "width": 16}),
    "deep_linear": Case("images", 0.03, 300, {"width": 16}),
    "cnn": Case("images", 0.5, 300, {"channels": [8, 16], "dense": 32}),
    "resnet": Case("images", 0.1, 200, {"width": 8, "stages": [1, 1], "pool": 2}),
    "vit": Case(
        "images", 0.2, 250, {"patch": 2, "width": 16, "depth": 2, "heads": 2, "head_width": 16, "hidden": 32}
    ),
    "transformer": Case("strings", 0.08, 250, {"width": 16, "depth": 2, "heads": 2}),
    "lstm": Case("strings", 0.5, 250, {}),
    "mamba": Case("strings", 0.08, 200, {"width": 16, "states": 8}),
}


def cost(function: Callable[..., jax.Array], w: jax.Array, directions: jax.Array, budget: float) -> float:
    """Seconds of processor time of one call inside a compiled loop, a mean over ``budget`` seconds."""
    calls = 5

    def loop(w: jax.Array, directions: jax.Array) -> jax.Array:
        def body(_: jax.Array, moved: jax.Array) -> jax.Array:
            # Each call depends on the one before, and on all it computes, so that nothing is left out.
            return moved + 1e-9 * jnp.sum(function(w + 1e-9 * moved, directions) ** 2)

        return jax.lax.fori_loop(0, jnp.int32(calls), body, jnp.zeros((), w.dtype))

    compiled = jax.jit(loop).lower(w, directions).compile()
    jax.block_until_ready(compiled(w, directions))
    # A mean over the whole budget: some systems count processor time in ticks of 10 ms.
    done, began, end = 0, time.process_time(), time.perf_counter() + budget
    while time.perf_counter() < end or done < 3:
        jax.block_until_ready(compiled(w, directions))
        done += 1
    return (time.process_time() - began) / (done * calls)


def costs(problem: Problem, budget: float) -> dict[str, float]:
    """Time of a gradient, and of second and third derivatives in gradients, per direction."""
    noise, directions = (
        jax.random.key(1),
        jax.random.normal(jax.random.key(2), (DIRECTIONS, problem.num_parameters)),
    )
    # Away from the special initial values, where zeros would make some products cheap.
    w = problem.w0 + 0.05 * jax.random.normal(noise, problem.w0.shape)

    def thirds(w: jax.Array, directions: jax.Array) -> jax.Array:
        pairs = jnp.stack([directions, directions[::-1]], axis=1)
        return jax.lax.map(lambda pair: problem.third(w, pair[0], pair[1]), pairs)

    gradient = cost(lambda w, _: problem.gradient(w), w, directions, budget)
    hvp = cost(lambda w, d: problem.linearize(w).hvp(d), w, directions, budget) / DIRECTIONS
    third = cost(thirds, w, directions, budget) / DIRECTIONS
    return {"gradient ms": 1e3 * gradient, "HVP": hvp / gradient, "third": third / gradient}


def run(problem: Problem, case: Case) -> dict[str, float]:
    """Step of reaching the edge, largest number critical, distance ratio and loss error of the central flow."""
    result = simulate(
        problem, optax.sgd(case.lr), processes=("discrete", "stable", "central"), steps=case.steps
    )
    metrics = result.metrics
    flow = define.series(metrics, "central", "effective_sharpness")
    edge = define.onset(flow, 0)
    distance = {p: define.series(metrics, p, "distance_to_discrete") for p in ("central", "stable")}
    loss = define.series(metrics, "discrete", "loss")
    return {
        "edge at step": np.nan if edge is None else edge,
        "critical": define.series(metrics, "central", "num_critical").max(),
        "distance ratio": define.distance_ratio(distance["central"], distance["stable"]),
        "loss error %": 100 * define.relative_error(loss, define.prediction(metrics, "central")),
        "last loss": loss.iloc[-1],
    }


def main(argv: list[str] | None = None) -> int:
    """Print a row per model; the exit code is 1 if a derivative costs more than its limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", help="folder of CIFAR-10, either layout; else $CFLOW_DATA or the cache folder"
    )
    parser.add_argument("--no-run", action="store_true", help="only the cost of derivatives")
    parser.add_argument("--no-cost", action="store_true", help="only the runs")
    parser.add_argument("--budget", type=float, default=1.5, help="seconds per timing (1.5)")
    parser.add_argument("models", nargs="*", help=f"among {', '.join(CASES)}; by default all")
    args = parser.parse_args(argv)
    unknown = [m for m in args.models if m not in CASES]
    if unknown:
        parser.error(f"unknown model {unknown[0]!r}; choose from {', '.join(CASES)}")
    keep_freed_memory()
    names = args.models or list(CASES)
    makers: dict[str, Callable[[], Dataset]] = {
        "images": lambda: cifar10(n=200, classes=4, pool=4, root=args.data),
        "strings": lambda: sorting(n=100),
        "chebyshev": lambda: chebyshev(n=20, degree=4),
    }
    try:
        data = {kind: makers[kind]() for kind in {CASES[name].data for name in names}}
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    dear = []
    header_due = True
    for name in names:
        case, began = CASES[name], time.perf_counter()
        model = instantiate(
            OmegaConf.load(CONF / f"{name}.yaml"), data=data[case.data], key=jax.random.key(0), **case.options
        )
        problem = Problem.from_model(model, data[case.data], mse())
        row: dict[str, float] = {"parameters": problem.num_parameters}
        if not args.no_cost:
            row |= costs(problem, args.budget)
            if row["HVP"] > HVP_LIMIT or row["third"] > THIRD_LIMIT:
                dear.append(name)
        if not args.no_run:
            row |= {"lr": case.lr, "steps": case.steps} | run(problem, case)
        row["seconds"] = time.perf_counter() - began
        if header_due:
            print(f"| model | {' | '.join(row)} |")
            print("|---" * (len(row) + 1) + "|")
            header_due = False
        print(f"| {name} | {' | '.join(f'{value:.4g}' for value in row.values())} |", flush=True)
    if dear:
        limits = f"HVP at most {HVP_LIMIT}, third derivative at most {THIRD_LIMIT} gradients"
        print(f"above the limits ({limits}): {', '.join(dear)}")
    return 1 if dear else 0


if __name__ == "__main__":
    raise SystemExit(main())
