"""How well the flows predict the optimizers: ``python -m benchmarks.accuracy``.

Every optimizer with a flow on three problems, several seeds each:

- digits: 200 handwritten digits of ten classes, 8 x 8, MLP 2 x 32;
- cifar10: 100 CIFAR-10 images of four classes, mean-pooled to 8 x 8, CNN with 4 and 8 channels and 32 dense units;
- sorting: 100 strings of four letters, followed by themselves sorted, transformer of one block of width 16;

all with GELU and mean squared error, in float64. In exact arithmetic an oscillation has to grow from rounding errors
and starts late; Gaussian kicks of norm 1e-3 spare the real optimizer that delay.

What any model could reach at best is measured beside each run, on five more that differ in their kicks alone: see
:mod:`cflow_cli.report.yardstick`.

Each run leaves one JSON file in ``--out``, and what is there is not repeated, so the study can be made in pieces
(``--only adam --problem digits --seed 0``), another flow at a time (``--flows two_phase``). The table is made from
whatever is there. ``--rates`` prints the learning rates that the rule of :mod:`benchmarks.accuracy_rates` takes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from benchmarks import accuracy_rates as rates
from benchmarks.accuracy_cases import (
    CASES,
    KICK,
    NEAR_EDGE,
    NEAR_FLOOR,
    NEAR_PAIR,
    PROBLEMS,
    SEEDS,
    TARGETS,
    Case,
    optimizer,
    problem,
)
from cflow_cli import Problem
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.engine.discrete import DiscreteState, steps_of
from cflow_cli.engine.simulation import Simulation
from cflow_cli.errors import UserError
from cflow_cli.optimizers.probing import map_of, update_of
from cflow_cli.report import definitions as define
from cflow_cli.report import smoothing, yardstick
from cflow_cli.report.tables import markdown

ARRIVED = 2.02
"""S_eff up to which a flow that branched off above the edge counts as having come down to it."""

RUNS = 6
"""Runs of the yardstick, the one that the flows are beside included."""

LOOKS = 10
"""Steps between two looks at the weights of all of them."""


def measure(
    metrics: pd.DataFrame, eigenvalues: pd.DataFrame, start: int, flows: Sequence[str]
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
        if flow == "two_phase":  # it leaves the edge between two bursts, as the optimizer does
            after = at_edge = sharpness[sharpness.index >= since]
        else:
            after = sharpness.loc[edge:] if edge is not None else sharpness.iloc[:0]
            # A flow that branches off above the edge first has to come down to it.
            arrived = after.index[after <= ARRIVED]
            after = after.loc[arrived[0] :] if flow != "stable" and len(arrived) else after
            at_edge = after[critical.loc[after.index] > 0]
        seen = middle[middle.index.isin(at_edge.index)]
        distance = define.series(metrics, flow, "distance_to_discrete")
        figures[flow] = {
            "edge": np.nan if edge is None else float(edge),
            "critical": float(critical.loc[after.index].max()) if len(after) else 0.0,
            "S flow": at_edge.mean(),
            "within": float(((at_edge - 2).abs() <= 0.02).mean()) if len(at_edge) else np.nan,
            "S midpoints": seen.mean(),
            "spread": seen.std(),
            "S gap": _gap(sharpness, middle, since),
            "distance ratio": define.distance_ratio(distance, stable, since),
            "loss error": 100 * define.relative_error(loss, define.prediction(metrics, flow), since),
            "correlation": _variance_correlation(eigenvalues, flow, at_edge.index),
            "final loss": float(loss.iloc[-1] / loss.iloc[0]),
        }
    return figures


def _gap(sharpness: pd.Series, middle: pd.Series, since: float) -> float:
    """Median over steps of |S_eff,flow − S_eff,midpoints| after a mean over 50 steps, of those known of both."""
    apart = (sharpness - middle).dropna()
    apart = apart[apart.index >= since]
    if apart.empty:
        return float("nan")
    window, fewest = smoothing.WINDOW, smoothing.WINDOW // 5
    full = apart.reindex(range(int(apart.index[0]), int(apart.index[-1]) + 1))
    return float(full.rolling(window, center=True, min_periods=fewest).mean().abs().median())


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


def kicked(own: Problem, transformation: Any, steps: int, seeds: Sequence[int]) -> list[np.ndarray]:
    """Paths of the optimizer that differ in their kicks alone, one for each seed of them: row t is w_t."""
    found = map_of(transformation, own.w0, own.unravel)
    take = steps_of(update_of(transformation, found))
    begin = DiscreteState(own.w0, own.w0, found.init(own.w0), jnp.zeros((), jnp.int32))
    count, kick = jnp.asarray(steps), jnp.asarray(KICK, own.w0.dtype)
    keys = (jax.random.split(jax.random.PRNGKey(seed), 3)[0] for seed in seeds)
    return [np.asarray(take(own, found, begin, steps, count, key, kick)[1].weights[1:]) for key in keys]


def reach(
    looks: Mapping[int, Mapping[str, np.ndarray]],
    before: Mapping[int, np.ndarray],
    others: Sequence[np.ndarray],
    metrics: pd.DataFrame,
    start: int,
) -> dict[str, float]:
    """``floor``, ``pair`` and ``ens_…`` of a run, means over the looks in the steps that its distances are taken over.

    Parameters
    ----------
    looks
        Step -> weights of the optimizer (``discrete``) and of its flows.
    before
        Step -> the optimizer's weights one step earlier.
    others
        Paths with other kicks, as of :func:`kicked`.
    metrics
        Of the run.
    start
        Step at which the flows branched off.
    """
    onset = define.onset(metrics, start)
    last = define.series(metrics, "stable", "distance_to_discrete").index.max()
    window = [t for t in looks if onset is not None and max(last - define.TAIL, onset) < t <= last]
    found = []
    for t in window:
        flows = {name: w for name, w in looks[t].items() if name != "discrete"}
        runs = np.stack([looks[t]["discrete"], *(path[t] for path in others)])
        means = (runs + np.stack([before[t], *(path[t - 1] for path in others)])) / 2
        found.append(yardstick.values(0, runs, means, flows))
    return pd.DataFrame(found).mean().to_dict() if found else {}


def run(
    name: str,
    where: str,
    seed: int,
    root: str | None,
    rate: float | None = None,
    flows: Sequence[str] = (),
) -> dict[str, Any]:
    """One run, at another learning rate if one is given, with the case's flows or others, as JSON can hold it."""
    case, began = CASES[name], time.perf_counter()
    lr = case.on[where][0] if rate is None else rate
    steps = case.on[where][1] if where in case.on else rates.STEPS
    # Every other is measured against the stable flow.
    flows = tuple(dict.fromkeys((*(flows or case.flows), "stable")))
    own, transformation = problem(where, seed, root), optimizer(name, lr)
    simulation = Simulation(
        own,
        transformation,
        steps=steps,
        warm_start=case.warm_start,
        seed=seed,
        kick=KICK,
        processes=("discrete", "midpoint", *flows),
        eigs=EigsOptions(block=4, every=4),
        measurements=(),
        pause_every=LOOKS,
    )
    looks, before = {}, {}
    for _ in simulation:
        if simulation.step % LOOKS == 0 and simulation.step > case.warm_start:
            looks[simulation.step] = simulation.weights()
            before[simulation.step] = np.asarray(simulation.discrete.before)
    others = kicked(own, transformation, steps, [1000 + k for k in range(1, RUNS)])
    metrics = simulation.metrics
    found = measure(metrics, simulation.eigenvalues, case.warm_start, flows)
    reached = reach(looks, before, others, metrics, case.warm_start)
    for flow in flows:
        found[flow]["ens"] = reached.pop(f"ens_{flow}", np.nan)
    return {
        "optimizer": name,
        "problem": where,
        "seed": seed,
        "lr": lr,
        "steps": steps,
        "flows": found,
        "yardstick": reached,
        "complaints": {p: s["steps_with"] for p, s in simulation.statuses.items() if s["steps_with"]},
        "seconds": time.perf_counter() - began,
    }


def completed(path: Path, wanted: Sequence[str], make: Any) -> dict[str, Any] | None:
    """What a run's file has, with those of the flows that it lacked; None where it lacked none."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    lacking = [flow for flow in wanted if old is None or flow not in old["flows"]]
    if not lacking:
        return None
    new: dict[str, Any] = make(lacking)
    if old is not None:
        for key in ("flows", "complaints"):
            new[key] |= old[key]
        new["seconds"] += old["seconds"]
    path.write_text(json.dumps(new, indent=1) + "\n", encoding="utf-8")
    return new


def _verdict(row: pd.Series, flow: str, case: Case) -> str:
    """PASS, or which targets are missed; empty where there are none."""
    if flow == "central":
        distance, loss = TARGETS[case.kind]
        fair = row["distance ratio"] if not row["floor"] > 0.1 else row["above floor"]
        met = {
            "S_eff": abs(row["S flow"] - 2) <= 0.02,
            "distance": fair <= distance,
            "loss": row["loss error"] <= loss,
        }
    elif flow == "two_phase":
        momentum = case.kind == "momentum"
        near = row["above pair"] <= NEAR_PAIR if momentum else row["above floor"] <= NEAR_FLOOR
        met = {"S_eff": row["S gap"] <= NEAR_EDGE, "distance": near}
    else:
        return ""
    missed = [what for what, is_met in met.items() if not is_met]
    return "PASS" if not missed else "miss: " + ", ".join(missed)


COLUMNS = {
    "edge": ("edge at step", "{:.0f}"),
    "critical": ("critical", "{:.0f}"),
    "S flow": ("S_eff of the flow", "{:.3f}"),
    "within": ("within 2 ± 0.02", "{:.0%}"),
    "S midpoints": ("S_eff of midpoints", "{:.2f}"),
    "spread": ("spread", "{:.2f}"),
    "S gap": ("S_eff gap", "{:.2f}"),
    "distance ratio": ("distance ratio", "{:.2f}"),
    "floor": ("floor", "{:.2f}"),
    "pair": ("pair", "{:.2f}"),
    "ens": ("from mean run", "{:.2f}"),
    "loss error": ("loss error", "{:.1f} %"),
    "correlation": ("variances", "{:.2f}"),
}


def medians(runs: Sequence[Mapping[str, Any]], flow: str) -> pd.Series:
    """Medians over seeds of a flow's figures and of what it could reach."""
    rows = pd.DataFrame([r["flows"][flow] | r.get("yardstick", {}) for r in runs])
    rows = rows.reindex(columns=list(dict.fromkeys((*COLUMNS, *rows.columns)))).astype(float)
    for reached in ("floor", "pair"):
        rows[f"above {reached}"] = rows["distance ratio"] - rows[reached]
    return rows.median()


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown tables, one per problem: medians over seeds, and PASS or what is missed."""
    headings = ["optimizer", "lr", "flow", *(heading for heading, _ in COLUMNS.values()), ""]
    texts = []
    for where in PROBLEMS:
        lines = []
        for name, case in CASES.items():
            every = [r for r in runs if r["problem"] == where and r["optimizer"] == name]
            flows = (*case.flows, *case.others)
            for flow, lr in ((f, lr) for lr in sorted({r["lr"] for r in every}) for f in flows):
                mine = [r for r in every if r["lr"] == lr and flow in r["flows"]]
                if not mine:
                    continue
                row = medians(mine, flow)
                cells = [
                    form.format(row[c]) if np.isfinite(row[c]) else "–" for c, (_, form) in COLUMNS.items()
                ]
                seeds = "" if len(mine) == SEEDS else f" ({len(mine)})"
                head = [name, f"{lr:g}"] if flow == flows[0] else ["", ""]
                lines.append([*head, flow + seeds, *cells, _verdict(row, flow, case)])
        if lines:
            texts.append(f"{where}:\n\n{markdown(headings, lines)}")
    return "\n".join(texts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", help="folder of CIFAR-10, either layout; else $CFLOW_DATA or the cache folder")
    add("--out", type=Path, default=Path("outputs/accuracy"), help="folder of the results")
    add("--only", nargs="+", choices=CASES, metavar="OPTIMIZER", help="these optimizers")
    add("--problem", choices=PROBLEMS, help="this problem")
    add("--seed", type=int, help=f"this seed (0 to {SEEDS - 1})")
    add("--lr", type=float, help="another learning rate, for the optimizers and problem named")
    add("--flows", nargs="+", metavar="FLOW", help="these flows instead of a case's own (rod, ablated, …)")
    add("--table", action="store_true", help="make no runs, print the table of those that are there")
    add("--rates", action="store_true", help="make no runs, print the learning rates that the rule takes")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Make the runs that are missing, and print the table of all that are there."""
    args = _parser().parse_args(argv)
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR"))
    names, wheres = args.only or list(CASES), [args.problem] if args.problem else PROBLEMS
    seeds = range(SEEDS) if args.seed is None else [args.seed]
    try:
        if args.rates:
            print(rates.table(names, wheres, args.data), end="")
            return 0
        for where, name in itertools.product(() if args.table else wheres, names):
            # All seeds of a case in a row share its compiled programs.
            for seed in seeds if where in CASES[name].on or args.lr is not None else ():
                _make(args, name, where, seed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    runs = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(args.out.glob("*_*_*.json"))]
    print(table(runs), end="")
    return 0


def _make(args: argparse.Namespace, name: str, where: str, seed: int) -> None:
    """What a run's file lacks, and a line about it."""
    args.out.mkdir(parents=True, exist_ok=True)
    ending = "" if args.lr is None else f"_lr{args.lr:g}"
    path, wanted = args.out / f"{where}_{name}_{seed}{ending}.json", args.flows or CASES[name].flows
    new = completed(path, wanted, lambda flows: run(name, where, seed, args.data, args.lr, flows))
    if new is None:
        return
    kept = ("S flow", "S gap", "distance ratio", "loss error")
    figures = {
        flow: {k: float(f"{v:.3g}") for k, v in own.items() if k in kept}
        for flow, own in new["flows"].items()
    }
    reached = {k: round(v, 3) for k, v in new["yardstick"].items()}
    text = (
        f"{where} {name} seed {seed}, {new['seconds']:.0f} s: {figures} {reached} {new['complaints'] or ''}"
    )
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
