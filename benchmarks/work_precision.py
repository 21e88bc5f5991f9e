"""Work against precision of the central flow: ``python -m benchmarks.work_precision``.

The digits MLP of the default run, float64, from its initial weights through the edge of stability. Each scheme is
compared every few steps with the flow integrated with 32 sub-steps, with the optimizer, and with the default. Distances
are means over the run, in weights, in units of that between the flow with 32 sub-steps and the optimizer: what lies far
below 1 cannot be seen in a comparison of the flow with the optimizer. Work is derivative evaluations per step, each at
the price in gradients that was measured for it by ``benchmarks.bench``.

Schemes: Euler with 1 to 8 sub-steps as the package takes them, with exponential damping along the critical directions;
the same without damping; Heun's second-order scheme over those steps; and the default step with one setting changed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from cflow_cli.config import composing
from cflow_cli.curvature.options import EigsOptions
from cflow_cli.flows.base import FlowState, StepInfo
from cflow_cli.flows.options import Central
from cflow_cli.report.style import COLOURS, COLUMN, figure_style
from cflow_cli.report.tables import markdown
from cflow_cli.runs import run as runs

PROBLEMS = {"gd": ((), 120), "rmsprop": (("optimizer=rmsprop", "lr=0.002"), 120)}
EVERY = 10
REFERENCE = "Euler, 32"
DEFAULT = "Euler, 1"


class Heun(eqx.Module):
    """Heun's scheme over Euler steps y' = E(y): the mean of y and E(E(y)), of weights and optimizer state alike."""

    euler: Any

    @property
    def optimizer(self) -> Any:
        """The update map whose average is followed."""
        return self.euler.optimizer

    def start(self, weights: Any, block: int) -> Any:
        """No memory of its own."""
        return self.euler.start(weights, block)

    def __call__(self, problem: Any, state: FlowState, counters: Any, iterations: Any) -> Any:
        """Take one sub-step; see :class:`cflow_cli.flows.base.Stepper`."""
        once, first = self.euler(problem, state, counters, iterations)
        twice, second = self.euler(problem, once, counters, iterations)

        def mean(a: Any, b: Any) -> Any:
            return (a + b) / 2 if jnp.issubdtype(a.dtype, jnp.floating) else b

        info: StepInfo = first._replace(
            pairs=first.pairs._replace(
                hvps=first.pairs.hvps + second.pairs.hvps,
                converged=first.pairs.converged & second.pairs.converged,
            ),
            gradients=first.gradients + second.gradients,
            third_derivatives=first.third_derivatives + second.third_derivatives,
            status=jnp.maximum(first.status, second.status),
        )
        state = twice._replace(
            weights=mean(state.weights, twice.weights),
            optimizer=jax.tree.map(mean, state.optimizer, twice.optimizer),
        )
        return state, info


@dataclass(frozen=True)
class Scheme(Central):
    """The central flow with another way to step it."""

    damping: bool = True
    heun: bool = False

    def stepper(self, optimizer: Any, eigs: EigsOptions) -> Any:
        """The step function."""
        own = replace(super().stepper(optimizer, eigs), damping=self.damping)
        return Heun(own) if self.heun else own


@dataclass(frozen=True)
class Case:
    """A scheme with settings of its run."""

    scheme: Scheme
    eigs: EigsOptions = field(default_factory=EigsOptions)
    dtype: str = "float64"


CASES = {
    REFERENCE: Case(Scheme(32)),
    **{f"Euler, {m}": Case(Scheme(m)) for m in (1, 2, 4, 8)},
    **{f"Euler undamped, {m}": Case(Scheme(m, damping=False)) for m in (1, 2, 4)},
    **{f"Heun, {m}": Case(Scheme(m, heun=True)) for m in (1, 2)},
    "Euler, 1, float32": Case(Scheme(1), dtype="float32"),
    **{f"Euler, 1, third_derivatives_every {m}": Case(Scheme(1, third_derivatives_every=m)) for m in (2, 4)},
    "Euler, 1, track_above 1.5": Case(Scheme(1), EigsOptions(track_above=1.5)),
    "Euler, 1, tolerance 0.003": Case(Scheme(1), EigsOptions(tolerance=0.003, max_iterations=20)),
}
FAMILIES: dict[str, tuple[Callable[[str], bool], str, str]] = {
    "Euler, damped (default)": (
        lambda n: n.startswith("Euler,") and n.count(",") == 1 and n != REFERENCE,
        COLOURS["central"],
        "o-",
    ),
    "Euler, undamped": (lambda n: n.startswith("Euler undamped"), COLOURS["stable"], "s--"),
    "Heun": (lambda n: n.startswith("Heun"), COLOURS["midpoint"], "^-."),
}


def trajectory(name: str, optimizer: str) -> dict[str, Any]:
    """Weights of a scheme and of the optimizer every few steps, and the derivative evaluations per step."""
    from cflow_cli.engine.simulation import Simulation

    case = CASES[name]
    overrides, steps = PROBLEMS[optimizer]
    prepared = runs.prepare(composing.compose([*overrides, f"dtype={case.dtype}"])).simulation
    simulation = Simulation(
        prepared.problem,
        prepared.optimizer.transformation,
        processes=[case.scheme],
        steps=steps,
        eigs=case.eigs,
        measurements=(),
        chunk=EVERY,
    )
    flow, real = [], []
    for chunk in simulation:
        if chunk.step % EVERY == 0:
            arrays = simulation.snapshot().arrays
            flow.append(np.asarray(arrays["central.process.weights"], np.float64))
            real.append(np.asarray(arrays["discrete.weights"], np.float64))
    metrics = simulation.metrics
    counts = {key: n / len(metrics) for key, n in simulation.counts["central"].items()}
    return {
        "flow": np.stack(flow),
        "real": np.stack(real),
        "counts": counts,
        "critical": int(metrics.num_critical.max()),
    }


def measured(folder: Path, optimizer: str) -> dict[str, dict[str, Any]]:
    """Each scheme's error and evaluations, taken from the folder where they are."""
    found: dict[str, dict[str, Any]] = {}
    for name in CASES:
        path = folder / f"{optimizer}, {name}.npz"
        if not path.exists():
            print(f"{optimizer}: {name}", file=sys.stderr, flush=True)
            run = trajectory(name, optimizer)
            np.savez(
                path, flow=run["flow"], real=run["real"], notes=json.dumps([run["counts"], run["critical"]])
            )
        with np.load(path) as saved:
            counts, critical = json.loads(str(saved["notes"]))
            found[name] = {"flow": saved["flow"], "real": saved["real"], "critical": critical, **counts}
    reference, default = found[REFERENCE], found[DEFAULT]
    scale = np.linalg.norm(reference["flow"] - reference["real"], axis=1).mean()
    for row in found.values():
        for key, other in (
            ("error", reference["flow"]),
            ("miss", reference["real"]),
            ("change", default["flow"]),
        ):
            row[key] = float(np.linalg.norm(row["flow"] - other, axis=1).mean() / scale)
    return found


def draw(results: dict[str, dict[str, dict[str, Any]]], path: Path) -> None:
    """Error against work, one panel per optimizer."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    with figure_style():
        figure, panels = plt.subplots(1, len(results), figsize=(2 * COLUMN, 2.4), sharey=True, squeeze=False)
        for axes, (optimizer, rows) in zip(panels[0], results.items(), strict=True):
            for label, (belongs, colour, style) in FAMILIES.items():
                points = sorted((r["work"], r["error"]) for name, r in rows.items() if belongs(name))
                axes.loglog(*zip(*points, strict=True), style, color=colour, label=label, markersize=4)
            axes.set(title=optimizer, xlabel="gradient-equivalents per step")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:.0f}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        panels[0][0].set_ylabel("distance to 32 sub-steps\n/ distance flow to optimizer")
        panels[0][0].legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Run the schemes that are missing, print the tables, draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PROBLEMS, help="this optimizer")
    parser.add_argument("--out", type=Path, default=Path("outputs/work_precision"), help="folder of results")
    parser.add_argument(
        "--prices",
        type=Path,
        default=Path("outputs/bench/digits.json"),
        help="measurement of the digits MLP by benchmarks.bench (outputs/bench/digits.json)",
    )
    parser.add_argument(
        "--figure", type=Path, help="file of the figure (work_precision.png in the folder of results)"
    )
    args = parser.parse_args(argv)
    if not args.prices.exists():
        print(f"error: no {args.prices}; first: python -m benchmarks.bench --only digits", file=sys.stderr)
        return 2
    prices = json.loads(args.prices.read_text(encoding="utf-8"))
    args.out.mkdir(parents=True, exist_ok=True)
    results = {o: measured(args.out, o) for o in PROBLEMS if args.only in (None, o)}
    for optimizer, rows in results.items():
        for row in rows.values():
            row["work"] = (
                row["gradients"] + prices["hvp"] * row["hvps"] + prices["third"] * row["third_derivatives"]
            )
        print(f"{optimizer}, at most {rows[REFERENCE]['critical']} critical\n")
        print(
            markdown(
                [
                    *("scheme, sub-steps", "gradients", "HVPs", "thirds", "gradient-equivalents"),
                    *("to 32 sub-steps", "to the optimizer", "to the default"),
                ],
                [
                    [
                        *(n, r["gradients"], r["hvps"], r["third_derivatives"], r["work"]),
                        *(r["error"], r["miss"], r["change"]),
                    ]
                    for n, r in rows.items()
                ],
            )
        )
    draw(results, args.figure or args.out / "work_precision.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
