"""How well the flows predict the optimizers: ``python -m benchmarks.accuracy``.

Every optimizer with a central flow on two problems, several seeds each:

- digits: 200 handwritten digits of ten classes, 8 x 8, MLP 2 x 32;
- cifar10: 100 CIFAR-10 images of four classes, mean-pooled to 8 x 8, CNN with 4 and 8 channels and 32 dense units;

both with GELU and mean squared error, in float64. In exact arithmetic an oscillation has to grow from rounding errors
and starts late; Gaussian kicks of norm 1e-3 spare the real optimizer that delay.

Each run leaves one JSON file in ``--out`` and is not repeated while that is there, so the study can be made in pieces
(``--only adam --problem digits --seed 0``). The table is made from whatever is there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import pandas as pd  # noqa: E402

from cflow_cli import Problem, simulate  # noqa: E402
from cflow_cli.curvature.options import EigsOptions  # noqa: E402
from cflow_cli.datasets.cifar10 import cifar10  # noqa: E402
from cflow_cli.datasets.digits import digits  # noqa: E402
from cflow_cli.errors import UserError  # noqa: E402
from cflow_cli.losses import mse  # noqa: E402
from cflow_cli.models.cnn import CNN  # noqa: E402
from cflow_cli.models.mlp import MLP  # noqa: E402
from cflow_cli.optimizers import adam_uncorrected, scalar_adam, scalar_rmsprop  # noqa: E402
from cflow_cli.report import definitions as define  # noqa: E402
from cflow_cli.report import smoothing  # noqa: E402
from cflow_cli.report.tables import markdown  # noqa: E402

KICK = 1e-3
SEEDS = 3
ARRIVED = 2.02
"""S_eff up to which a flow that branched off above the edge counts as having come down to it."""


class Case(NamedTuple):
    """One optimizer.

    Parameters
    ----------
    build
        Learning rate -> optax object.
    digits, cifar10
        Learning rate and steps on each problem, such that at least two eigenvalues become critical where possible; None
        where no rate brings the optimizer to the edge before its training is over.
    warm_start
        Steps before the flows branch off.
    errors
        Targets of the distance ratio and of the loss error in per cent; None where there are none.
    others
        Flows beside the central and the stable one.
    """

    build: Callable[[float], Any]
    digits: tuple[float, int] | None
    cifar10: tuple[float, int] | None
    warm_start: int
    errors: tuple[float, float] | None
    others: tuple[str, ...] = ()


def _rmsprop(lr: float) -> Any:
    return optax.rmsprop(lr, decay=0.99, eps=1e-8, eps_in_sqrt=False, bias_correction=True)


_NEAR, _FAR = (0.25, 3.0), (0.25, 10.0)
CASES = {
    "gd": Case(optax.sgd, (0.2, 400), (0.4, 400), 0, _NEAR, ("rod",)),
    "momentum": Case(partial(optax.sgd, momentum=0.9), None, (0.02, 800), 0, _FAR),
    "momentum_0.5": Case(partial(optax.sgd, momentum=0.5), (0.3, 400), (0.4, 400), 0, _FAR),
    "nesterov": Case(partial(optax.sgd, momentum=0.9, nesterov=True), (0.15, 400), (0.02, 600), 0, _FAR),
    "nesterov_0.5": Case(partial(optax.sgd, momentum=0.5, nesterov=True), (0.15, 400), (0.2, 400), 0, _FAR),
    "scalar_rmsprop": Case(
        lambda lr: scalar_rmsprop(lr, bias_correction=True), (0.05, 400), (0.08, 400), 5, _NEAR
    ),
    "rmsprop": Case(_rmsprop, (0.001, 400), (0.001, 400), 20, _NEAR, ("ablated", "rod")),
    "adam": Case(
        lambda lr: optax.adam(lr, b2=0.99), (0.003, 500), (0.001, 400), 10, _NEAR, ("ablated", "rod")
    ),
    "adamw": Case(
        lambda lr: optax.adamw(lr, b2=0.99, weight_decay=1e-2), (0.003, 500), (0.001, 400), 10, _NEAR
    ),
    "nadam": Case(lambda lr: optax.nadam(lr, b2=0.99), (0.001, 400), (0.001, 400), 10, _NEAR),
    "adabelief": Case(lambda lr: optax.adabelief(lr, b2=0.99), (0.003, 500), (0.001, 400), 10, _NEAR),
    "adagrad": Case(
        lambda lr: optax.adagrad(lr, initial_accumulator_value=0.0), (0.02, 400), (0.05, 400), 5, _NEAR
    ),
    "scalar_adam": Case(lambda lr: scalar_adam(lr, b2=0.99), (0.4, 500), (0.2, 400), 10, None),
    "adam_uncorrected": Case(lambda lr: adam_uncorrected(lr, b2=0.99), (0.003, 500), (0.001, 400), 10, None),
    "amsgrad": Case(lambda lr: optax.amsgrad(lr, b2=0.99), None, (0.003, 400), 10, _NEAR),
}
"""Yogi is missing: its central flow is refused."""

FLOWS = ("central", "stable")


def problem(name: str, seed: int, root: str | None) -> Problem:
    """One of the two problems with the initial weights of a seed."""
    key = jax.random.PRNGKey(seed)
    if name == "digits":
        data = digits(n=200)
        return Problem.from_model(MLP(data, key, widths=[32, 32]), data, mse(), jnp.float64)
    data = cifar10(root=root, n=100, classes=4, pool=4)
    return Problem.from_model(CNN(data, key, channels=[4, 8], dense=32), data, mse(), jnp.float64)


def measure(
    metrics: pd.DataFrame, eigenvalues: pd.DataFrame, start: int, flows: Sequence[str] = FLOWS
) -> dict[str, dict[str, float]]:
    """Figures of each flow of a run, by the definitions of the report.

    Parameters
    ----------
    metrics, eigenvalues
        The two tables of the run.
    start
        Step at which the flows branched off.
    flows
        Their names.
    """
    middle = define.series(metrics, "midpoint", "effective_sharpness")
    loss = define.series(metrics, "discrete", "loss").loc[start:]
    stable = define.series(metrics, "stable", "distance_to_discrete")
    onset = define.onset(metrics, start)
    since = np.inf if onset is None else onset
    figures = {}
    for flow in flows:
        sharpness = define.series(metrics, flow, "effective_sharpness")
        critical = define.series(metrics, flow, "num_critical")
        edge = define.edge_step(sharpness, start)
        after = sharpness.loc[edge:] if edge is not None else sharpness.iloc[:0]
        # A flow that branches off above the edge first has to come down to it.
        arrived = after.index[after <= ARRIVED]
        settled = after.loc[arrived[0] :] if flow != "stable" and len(arrived) else after
        at_edge = settled[critical.loc[settled.index] > 0]
        seen = middle[middle.index.isin(at_edge.index)]
        distance = define.series(metrics, flow, "distance_to_discrete")
        figures[flow] = {
            "edge": np.nan if edge is None else float(edge),
            "critical": float(critical.loc[settled.index].max()) if len(settled) else 0.0,
            "S flow": at_edge.mean(),
            "within": float(((at_edge - 2).abs() <= 0.02).mean()) if len(at_edge) else np.nan,
            "S midpoints": seen.mean(),
            "spread": seen.std(),
            "distance ratio": define.distance_ratio(distance, stable, since),
            "loss error": 100 * define.relative_error(loss, define.prediction(metrics, flow), since),
            "correlation": _variance_correlation(eigenvalues, flow, at_edge.index),
            "final loss": float(loss.iloc[-1] / loss.iloc[0]),
        }
    return figures


def _variance_correlation(eigenvalues: pd.DataFrame, flow: str, steps: pd.Index) -> float:
    """Correlation of predicted and measured variances of the oscillation over the steps at the edge.

    Summed over directions (nearly equal eigenvectors turn into one another) and smoothed.
    """
    own = eigenvalues[(eigenvalues.process == flow) & eigenvalues.step.isin(steps)]
    predicted, measured = (
        smoothing.smoothed(own[own.kind == kind].groupby("step").value.sum())
        for kind in ("sigma", "sigma_measured")
    )
    return predicted.corr(measured) if len(predicted) > 1 else np.nan


def run(
    optimizer: str, where: str, seed: int, root: str | None, rate: float | None = None, others: bool = False
) -> dict[str, Any]:
    """One run, at another learning rate if one is given, with other flows if asked for, as JSON can hold it."""
    case, began = CASES[optimizer], time.perf_counter()
    lr, steps = getattr(case, where)
    lr = lr if rate is None else rate
    flows = (*FLOWS, *(case.others if others else ()))
    result = simulate(
        problem(where, seed, root),
        case.build(lr),
        steps=steps,
        warm_start=case.warm_start,
        seed=seed,
        kick=KICK,
        processes=("discrete", "midpoint", *flows),
        eigs=EigsOptions(block=4, every=4),
        measurements=(),
    )
    return {
        "optimizer": optimizer,
        "problem": where,
        "seed": seed,
        "lr": lr,
        "steps": steps,
        "flows": measure(result.metrics, result.eigenvalues, case.warm_start, flows),
        "complaints": {p: s["steps_with"] for p, s in result.statuses.items() if s["steps_with"]},
        "seconds": time.perf_counter() - began,
    }


def _verdict(row: pd.Series, flow: str, case: Case) -> str:
    """PASS, or which targets are missed; empty where there are none."""
    if flow != "central":
        return ""
    missed = [] if abs(row["S flow"] - 2) <= 0.02 else ["S_eff"]
    if case.errors is not None:
        missed += [] if row["distance ratio"] <= case.errors[0] else ["distance"]
        missed += [] if row["loss error"] <= case.errors[1] else ["loss"]
    return "PASS" if not missed else "miss: " + ", ".join(missed)


COLUMNS = {
    "edge": ("edge at step", "{:.0f}"),
    "critical": ("critical", "{:.0f}"),
    "S flow": ("S_eff of the flow", "{:.3f}"),
    "within": ("within 2 ± 0.02", "{:.0%}"),
    "S midpoints": ("S_eff of midpoints", "{:.2f}"),
    "spread": ("spread", "{:.2f}"),
    "distance ratio": ("distance ratio", "{:.2f}"),
    "loss error": ("loss error", "{:.1f} %"),
    "correlation": ("variances", "{:.2f}"),
}


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown tables, one per problem: medians over seeds, and PASS or what is missed."""
    headings = ["optimizer", "lr", "flow", *(heading for heading, _ in COLUMNS.values()), ""]
    texts = []
    for where in sorted({r["problem"] for r in runs}, reverse=True):
        lines = []
        for name, case in CASES.items():
            every = [r for r in runs if r["problem"] == where and r["optimizer"] == name]
            flows = (*FLOWS, *case.others)
            for flow, lr in ((f, lr) for lr in sorted({r["lr"] for r in every}) for f in flows):
                mine = [r for r in every if r["lr"] == lr and flow in r["flows"]]
                if not mine:
                    continue
                row = pd.DataFrame([r["flows"][flow] for r in mine]).astype(float).median()
                cells = [
                    form.format(row[c]) if np.isfinite(row[c]) else "–" for c, (_, form) in COLUMNS.items()
                ]
                head = [name, f"{lr:g}"] if flow == FLOWS[0] else ["", ""]
                lines.append([*head, flow, *cells, _verdict(row, flow, case)])
        texts.append(f"{where}:\n\n{markdown(headings, lines)}")
    return "\n".join(texts)


def main(argv: list[str] | None = None) -> int:
    """Make the runs that are missing, and print the table of all that are there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", help="folder of CIFAR-10, either layout; else $CFLOW_DATA or the cache folder"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/accuracy"), help="folder of the results")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="OPTIMIZER", help="these optimizers")
    parser.add_argument("--problem", choices=("digits", "cifar10"), help="this problem")
    parser.add_argument("--seed", type=int, help=f"this seed (0 to {SEEDS - 1})")
    parser.add_argument(
        "--lr", type=float, help="another learning rate, for the optimizers and problem named"
    )
    parser.add_argument(
        "--others", action="store_true", help="rod flow and the ablated flow too, where a case has them"
    )
    parser.add_argument(
        "--table", action="store_true", help="make no runs, print the table of those that are there"
    )
    args = parser.parse_args(argv)
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR"))
    args.out.mkdir(parents=True, exist_ok=True)
    for where in () if args.table else [args.problem] if args.problem else ["digits", "cifar10"]:
        for seed in range(SEEDS) if args.seed is None else [args.seed]:
            for name in args.only or CASES:
                ending = "" if args.lr is None else f"_lr{args.lr:g}"
                path = args.out / f"{where}_{name}_{seed}{ending}.json"
                if path.exists() or getattr(CASES[name], where) is None:
                    continue
                try:
                    found = run(name, where, seed, args.data, args.lr, args.others)
                except UserError as error:
                    print(f"error: {error}", file=sys.stderr)
                    return 2
                path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                figures = {k: float(f"{v:.4g}") for k, v in found["flows"]["central"].items()}
                print(
                    f"{where} {name} seed {seed}, {found['seconds']:.0f} s: {figures} {found['complaints'] or ''}",
                    file=sys.stderr,
                    flush=True,
                )
    runs = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(args.out.glob("*_*_*.json"))]
    print(table(runs), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
