"""What the derivatives of every model cost, and a short run of each: ``python -m benchmarks.zoo --data PATH``.

Sizes are mini: the paper's shapes, small enough for two CPU cores. A model's figures are kept in ``OUT/MODEL.json``;
one that is done is not measured again without ``--again``, and the table shows what is there.

Costs are processor time per call inside a compiled loop, as a run spends it. HVP: Hessian-vector products along a block
of four directions, with the linearisation they share, per direction. Third: ∇(qᵀHq) along four directions q, per
direction; the central flow takes one for each pair u, v of critical directions, along u + v where they differ. Each is
measured the way that a run takes on a CPU, one direction after the other, and vmapped over all four, as on an
accelerator.

The run is gradient descent on the mean squared error with its stable and central flow, through the edge of stability.
Distance ratio is the mean distance of the central flow from gradient descent in the last 50 steps as a part of the
stable flow's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from hydra.utils import instantiate
from omegaconf import OmegaConf

from cflow_cli import Problem, simulate
from cflow_cli.datasets import Dataset
from cflow_cli.datasets.chebyshev import chebyshev
from cflow_cli.datasets.cifar10 import cifar10
from cflow_cli.datasets.sorting import sorting
from cflow_cli.errors import UserError
from cflow_cli.losses import mse
from cflow_cli.report import definitions as define
from cflow_cli.report.tables import markdown

CONF = Path(__file__).parents[1] / "conf" / "model"
DIRECTIONS = 4
LIMITS = {"hvp": 3.5, "third": 9.0}


@dataclass(frozen=True)
class Case:
    """A model at mini size on its natural data, and a learning rate that takes it to the edge.

    Parameters
    ----------
    data
        ``images`` (CIFAR-10, four classes, 8×8), ``strings`` (sorting) or ``chebyshev``.
    n
        Training examples.
    lr, steps
        Of gradient descent.
    options
        Of the model.
    """

    data: str
    n: int
    lr: float
    steps: int
    options: dict[str, Any] = field(default_factory=dict)


CASES = {
    "mlp": Case("images", 200, 0.15, 250, {"widths": [32, 32]}),
    "fc": Case("chebyshev", 20, 0.3, 300, {"depth": 4, "width": 16}),
    # Smaller initial weights: at the usual ones it starts above the edge.
    "deep_linear": Case("images", 200, 0.1, 300, {"width": 16, "init_scale": 0.5}),
    "cnn": Case("images", 200, 0.5, 300, {"channels": [8, 16], "dense": 32}),
    "resnet": Case("images", 100, 0.1, 200, {"width": 8, "stages": [1, 1], "pool": 2}),
    "vit": Case(
        "images",
        100,
        0.2,
        250,
        {"patch": 2, "width": 16, "depth": 2, "heads": 2, "head_width": 16, "hidden": 32},
    ),
    "transformer": Case("strings", 50, 0.1, 200, {"width": 16, "depth": 2, "heads": 2}),
    "lstm": Case("strings", 50, 0.5, 250),
    "mamba": Case("strings", 50, 0.105, 250, {"width": 16, "states": 8}),
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
    """Seconds of a gradient, and second and third derivatives in gradients, per direction."""
    directions = jax.random.normal(jax.random.key(2), (DIRECTIONS, problem.num_parameters))
    # Away from the special initial values, where zeros would make some products cheap.
    w = problem.w0 + 0.05 * jax.random.normal(jax.random.key(1), problem.w0.shape)

    def hvps_together(w: jax.Array, directions: jax.Array) -> jax.Array:
        _, linear = jax.linearize(problem.gradient, w)
        return jax.vmap(linear)(directions)

    def third(w: jax.Array, q: jax.Array) -> jax.Array:
        return problem.third(w, q, q)

    gradient = cost(lambda w, _: problem.gradient(w), w, directions, budget)
    found = {
        "hvp": cost(lambda w, d: problem.linearize(w).hvp(d), w, directions, budget),
        "hvp_vmapped": cost(hvps_together, w, directions, budget),
        "third": cost(lambda w, d: jax.lax.map(lambda q: third(w, q), d), w, directions, budget),
        "third_vmapped": cost(lambda w, d: jax.vmap(lambda q: third(w, q))(d), w, directions, budget),
    }
    return {"gradient": gradient} | {name: t / DIRECTIONS / gradient for name, t in found.items()}


def run(problem: Problem, case: Case) -> dict[str, Any]:
    """Step of reaching the edge, largest number critical, distance ratio and loss error of the central flow."""
    began = time.perf_counter()
    result = simulate(
        problem, optax.sgd(case.lr), processes=("discrete", "midpoint", "stable", "central"), steps=case.steps
    )
    metrics = result.metrics
    edge = define.edge_step(define.series(metrics, "central", "effective_sharpness"), 0)
    onset = define.onset(metrics)
    start = np.inf if onset is None else onset
    distance = {p: define.series(metrics, p, "distance_to_discrete") for p in ("central", "stable")}
    loss = define.series(metrics, "discrete", "loss")
    return {
        "edge": None if edge is None else int(edge),
        "critical": int(define.series(metrics, "central", "num_critical").max()),
        "distance_ratio": float(define.distance_ratio(distance["central"], distance["stable"], start)),
        "loss_error": float(define.relative_error(loss, define.prediction(metrics, "central"), start)),
        "last_loss": float(loss.iloc[-1]),
        "status": {name: found["status"] for name, found in result.statuses.items()},
        "seconds": time.perf_counter() - began,
    }


def measure(name: str, data: Dataset, path: Path, budget: float) -> None:
    """Measure what ``path`` does not have yet of a case, and write it there after each part."""
    case = CASES[name]
    figures = _read(path)
    if figures.get("case") != asdict(case):
        figures = {"model": name, "case": asdict(case)}
    if "cost" in figures and "run" in figures:
        return
    model = instantiate(
        OmegaConf.load(CONF / f"{name}.yaml"), data=data, key=jax.random.key(0), **case.options
    )
    problem = Problem.from_model(model, data, mse())
    figures["parameters"] = problem.num_parameters
    for part, function in (("cost", lambda: costs(problem, budget)), ("run", lambda: run(problem, case))):
        if part not in figures:
            figures[part] = function()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def memory(root: str | None) -> str:
    """What the paper's CNN needs beside weights and data, for different numbers of images: a Markdown table."""
    lines = []
    for n in (200, 1000):
        row = []
        for microbatch in (None, 100):
            data = cifar10(n=n, classes=4, root=root, microbatch=microbatch)
            model = instantiate(OmegaConf.load(CONF / "cnn.yaml"), data=data, key=jax.random.key(0))
            problem = Problem.from_model(model, data, mse())

            def derivatives(p: Problem, w: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
                return p.linearize(w).hvp(rows), p.third(w, rows[0], rows[0])

            rows = jnp.zeros((DIRECTIONS, problem.num_parameters))
            compiled = eqx.filter_jit(derivatives).lower(problem, problem.w0, rows).compile()
            row.append(compiled.compiled.memory_analysis().temp_size_in_bytes)
        lines.append([n, *(f"{size / 1e6:.0f} MB" for size in row)])
    return markdown(["images", "at once", "data.microbatch=100"], lines, ["count"] * 3)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def table(found: list[dict[str, Any]]) -> str:
    """The figures as a Markdown table."""
    heads = (
        "model,parameters,gradient (ms),HVP,HVP vmapped,third,third vmapped,lr,steps,edge at step,critical"
    )
    headings = [*heads.split(","), "distance ratio", "loss error"]
    lines = []
    for row in found:
        c, r = row["cost"], row["run"]
        edge = "none" if r["edge"] is None else str(r["edge"])
        lines.append(
            [row["model"], str(row["parameters"]), f"{1e3 * c['gradient']:.2g}"]
            + [f"{c[k]:.1f}" for k in ("hvp", "hvp_vmapped", "third", "third_vmapped")]
            + [f"{row['case']['lr']:g}", str(row["case"]["steps"]), edge, str(r["critical"])]
            + [f"{r['distance_ratio']:.2f}", f"{100 * r['loss_error']:.1f} %"]
        )
    return markdown(headings, lines, ["text"] + ["number"] * (len(headings) - 1))


def main(argv: list[str] | None = None) -> int:
    """Measure and print the table; the exit code is 1 if a derivative costs more than its limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", help="folder of CIFAR-10, either layout; else $CFLOW_DATA or the cache folder"
    )
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="MODEL", help=f"of {', '.join(CASES)}")
    parser.add_argument("--out", type=Path, default=Path("outputs/zoo"), help="figures (outputs/zoo)")
    parser.add_argument(
        "--memory", action="store_true", help="only the memory that derivatives need, by slices"
    )
    parser.add_argument("--again", action="store_true", help="measure also what is done")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds per timing (1)")
    args = parser.parse_args(argv)
    if args.memory:
        print(memory(args.data), end="")
        return 0
    makers: dict[str, Callable[[int], Dataset]] = {
        "images": lambda n: cifar10(n=n, classes=4, pool=4, root=args.data),
        "strings": lambda n: sorting(n=n),
        "chebyshev": lambda n: chebyshev(n=n, degree=4),
    }
    for name in args.only or CASES:
        path, case = args.out / f"{name}.json", CASES[name]
        if args.again:
            path.unlink(missing_ok=True)
        try:
            measure(name, makers[case.data](case.n), path, args.budget)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    found = [_read(args.out / f"{name}.json") for name in CASES]
    found = [
        row for row in found if "cost" in row and "run" in row and row["case"] == asdict(CASES[row["model"]])
    ]
    print(table(found), end="")
    dear = [row["model"] for row in found if any(row["cost"][k] > most for k, most in LIMITS.items())]
    if dear:
        print(f"above {LIMITS['hvp']} gradients per HVP or {LIMITS['third']} per third: {', '.join(dear)}")
    return 1 if dear else 0


if __name__ == "__main__":
    raise SystemExit(main())
