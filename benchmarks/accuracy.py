"""How well the flows predict the optimizers: ``python -m benchmarks.accuracy --data PATH``.

CIFAR-10 images (n = 200, the first four classes, mean-pooled to 8 x 8), an MLP 2 x 32 with GELU, mean squared error,
float64. In exact arithmetic an oscillation has to grow from rounding errors and starts late; ``--kick`` adds Gaussian
kicks to the real optimizer, as small as they may be large enough to spare that delay.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import pandas as pd  # noqa: E402

from cflow_cli import Problem, simulate  # noqa: E402
from cflow_cli.datasets.cifar10 import cifar10  # noqa: E402
from cflow_cli.errors import UserError  # noqa: E402
from cflow_cli.losses import mse  # noqa: E402
from cflow_cli.models.mlp import MLP  # noqa: E402
from cflow_cli.optimizers import scalar_rmsprop  # noqa: E402
from cflow_cli.report import definitions as define  # noqa: E402


class Case(NamedTuple):
    """An optimizer with its length of run and the steps before the flows branch off."""

    optimizer: Callable[[], Any]
    steps: int
    warm_start: int


def _rmsprop() -> Any:
    return optax.rmsprop(0.002, decay=0.99, eps=1e-8, eps_in_sqrt=False, bias_correction=True)


CASES = {
    "gd": Case(lambda: optax.sgd(0.1), 450, 0),
    "rmsprop": Case(_rmsprop, 370, 20),
    "adam": Case(lambda: optax.adam(5e-4, b1=0.9, b2=0.99), 900, 5),
    "scalar_rmsprop": Case(lambda: scalar_rmsprop(0.02, bias_correction=True), 500, 5),
    "adamw": Case(lambda: optax.adamw(5e-4, b1=0.9, b2=0.99), 900, 5),
    "nadam": Case(lambda: optax.nadam(5e-4, b1=0.9, b2=0.99), 900, 5),
    "adabelief": Case(lambda: optax.adabelief(5e-4, b1=0.9, b2=0.99), 900, 5),
    "adagrad": Case(lambda: optax.adagrad(0.02, initial_accumulator_value=0.0), 600, 5),
    "momentum": Case(lambda: optax.sgd(0.02, momentum=0.9), 600, 0),
    "nesterov": Case(lambda: optax.sgd(0.02, momentum=0.9, nesterov=True), 600, 0),
}


def measure(metrics: pd.DataFrame, eigenvalues: pd.DataFrame, start: int) -> dict[str, float]:
    """Figures of one run, by the definitions of the report."""
    flow = define.series(metrics, "central", "effective_sharpness")
    edge = define.onset(flow, start)
    settled = flow.loc[edge:] if edge is not None else flow.iloc[:0]
    # A flow that branches off above the edge first has to come down to it.
    arrived = settled.index[settled <= 2.02]
    settled = settled.loc[arrived[0] :] if len(arrived) else settled
    critical = define.series(metrics, "central", "num_critical").loc[settled.index]
    at_edge = settled[critical > 0]
    loss = define.series(metrics, "discrete", "loss").loc[start:]
    predicted = define.prediction(metrics, "central")
    distance = {p: define.series(metrics, p, "distance_to_discrete") for p in ("central", "stable")}
    spectra = eigenvalues[(eigenvalues.process == "central") & (eigenvalues["index"] == 0)]
    sigma, measured = (
        define.smoothed(spectra[spectra.kind == kind].set_index("step").value)
        for kind in ("sigma", "sigma_measured")
    )
    middle = define.series(metrics, "midpoint", "effective_sharpness")
    return {
        "edge at step": np.nan if edge is None else edge,
        "critical": critical.max(),
        "S_eff flow min": at_edge.min(),
        "S_eff flow max": at_edge.max(),
        "S_eff midpoints": middle.loc[settled.index].mean() if len(settled) else np.nan,
        "spread": middle.loc[settled.index].std() if len(settled) else np.nan,
        "distance ratio": define.distance_ratio(distance["central"], distance["stable"]),
        "loss error %": 100 * define.relative_error(loss, predicted),
        "both smoothed %": 100 * define.relative_error(loss, define.smoothed(predicted)),
        "stable %": 100 * define.relative_error(loss, define.prediction(metrics, "stable")),
        "variance correlation": sigma.corr(measured) if len(sigma) else np.nan,
    }


def main(argv: list[str] | None = None) -> int:
    """Print the table of medians over seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", help="folder of CIFAR-10, either layout; else $CFLOW_DATA or the cache folder"
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (3)")
    parser.add_argument("--kick", type=float, default=0.0, help="norm of the kicks (0)")
    parser.add_argument("cases", nargs="*", help=f"among {', '.join(CASES)}; by default the first three")
    args = parser.parse_args(argv)
    unknown = [c for c in args.cases if c not in CASES]
    if unknown:
        parser.error(f"unknown case {unknown[0]!r}; choose from {', '.join(CASES)}")
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR"))
    try:
        data = cifar10(root=args.data, n=200, classes=4, pool=4)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = {}
    for name in args.cases or list(CASES)[:3]:
        case, runs, began = CASES[name], [], time.perf_counter()
        for seed in range(args.seeds):
            problem = Problem.from_model(
                MLP(data, jax.random.PRNGKey(seed), widths=[32, 32]), data, mse(), jnp.float64
            )
            result = simulate(
                problem,
                case.optimizer(),
                steps=case.steps,
                warm_start=case.warm_start,
                seed=seed,
                kick=args.kick,
            )
            runs.append(measure(result.metrics, result.eigenvalues, case.warm_start))
            complaints = {p: s["steps_with"] for p, s in result.statuses.items() if s["steps_with"]}
            print(f"{name} seed {seed}: {_short(runs[-1])} {complaints or ''}", file=sys.stderr, flush=True)
        rows[name] = {**pd.DataFrame(runs).median().to_dict(), "seconds": time.perf_counter() - began}
    columns = list(next(iter(rows.values())))
    print(f"| optimizer | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{row[c]:.4g}' for c in columns)} |")
    return 0


def _short(row: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in row.items())


if __name__ == "__main__":
    raise SystemExit(main())
