"""What a step of each process costs, in derivative evaluations and in gradients: ``python -m benchmarks.bench``.

Each problem is taken to the edge of stability once by the plain optimizer; the iterate reached there is kept in the
output folder, so that repeated timings are cheap. From it all processes run some steps until they have settled, and
are then timed one at a time over a chunk of steps, always the same ones. In turn with the chunks, alone and in
compiled loops, are timed a gradient, K Hessian-vector products at once with the linearisation they share, and third
derivatives, so that each ratio compares times measured together; medians over rounds count. Where time goes:

eigenvalues
    Gradient, linearisation, Hessian-vector products and Rayleigh-Ritz of the flow's block, compiled alone: once as it
    is without and once with an expansion, added up by the number of each that the timed steps took.
third derivatives
    The loop over pairs, compiled alone, at the number of pairs that the timed steps had.
SDCP
    The complementarity problems of the timed steps, taken down on the way and solved again by a program of their own.
host, storage
    A call of the compiled chunk that takes no step, with its records brought to the host; writing records to a folder.
beyond derivatives
    What remains of a step after its gradients, Hessian-vector products and third derivatives, each at the price it
    has alone: Rayleigh-Ritz, the flow's own algebra, SDCP, records.

Compilation is timed once for the two processes that observe and once for the two flows: each pair shares a program.

Each problem runs in a process of its own, for the peak of its memory. One that is done is not measured again without
``--again``. The problem ``run`` is the default run as a user starts it, with a cold and a warm compilation cache;
``path`` is a Bézier curve between two such runs by ``cflow path``, alike; ``kernel`` is the tangent kernel of the
default network: all its columns, and its eigenvalues.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cflow_cli.config import composing
from cflow_cli.report.tables import markdown
from cflow_cli.runs import run as runs

IMAGES = ("data=cifar10", "model.widths=[256,256]")


@dataclass(frozen=True)
class Case:
    """A problem at the edge.

    Parameters
    ----------
    overrides
        Of the default config.
    edge
        Steps of the plain optimizer before anything is measured.
    settle, chunk
        Steps of all processes before they are timed, and steps timed.
    """

    overrides: tuple[str, ...]
    edge: int
    settle: int = 12
    chunk: int = 6


CASES = {
    "digits": Case((), 70, settle=40, chunk=50),
    "digits-rmsprop": Case(("optimizer=rmsprop", "lr=0.002"), 70, settle=40, chunk=50),
    # Linearised before the edge: at it, it diverges. It does not sharpen: one look at its spectrum falls into a chunk.
    "digits-linear": Case(("processes=[discrete,central,linear]",), 20, settle=50, chunk=50),
    "cifar-mlp": Case((*IMAGES, "lr=0.02"), 875),
    "cifar-mlp-two-phase": Case(
        (*IMAGES, "lr=0.02", "processes=[discrete,midpoint,stable,central,two_phase]"), 875
    ),
    # As many steps as third derivatives serve, twice.
    "cifar-mlp-thirds": Case(
        (*IMAGES, "lr=0.02", "processes.central.third_derivatives_every=auto"), 875, chunk=16
    ),
    "cifar-mlp-float64": Case((*IMAGES, "lr=0.02", "dtype=float64"), 875),
    "cifar-mlp-rmsprop": Case((*IMAGES, "optimizer=rmsprop", "lr=2e-5"), 210),
    # Three directions become critical on the flow itself, not where it starts from an iterate at the edge.
    "cifar-mlp-adam": Case((*IMAGES, "optimizer=adam", "lr=3e-4"), 20, settle=165),
    "cifar-cnn": Case(
        (
            *("data=cifar10", "data.n=200", "data.pool=2", "lr=0.3"),
            *("model=cnn", "model.channels=[8,16]", "model.dense=32"),
        ),
        200,
    ),
    "transformer": Case(
        (
            *("data=sorting", "data.n=200", "lr=0.08"),
            *("model=transformer", "model.width=16", "model.depth=2", "model.heads=2"),
        ),
        200,
    ),
}
COMMAND, PATH, KERNEL = "run", "path", "kernel"
# Examples of ten classes: kernels of 500, 1,000 and 2,000 rows.
KERNEL_EXAMPLES = (50, 100, 200)
ROUNDS = 3


# --- timing -----------------------------------------------------------------------------------------


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of a call, its arrays ready."""
    import jax

    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def looped(
    function: Callable[..., Any], *arguments: Any, budget: float = 0.3
) -> tuple[Callable[[], Any], int]:
    """Calls of ``function(w, *rest)`` in one compiled loop of about ``budget`` seconds, and how many there are."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def loop(calls: Any, w: Any, *rest: Any) -> Any:
        def body(_: Any, moved: Any) -> Any:
            # All that is computed is used, and the point moves, so that nothing is left out or done once for all.
            leaves = jax.tree.leaves(function(w + 1e-9 * moved, *rest))
            return 1e-9 * (moved + sum(jnp.sum(leaf.astype(w.dtype)) for leaf in leaves))

        return jax.lax.fori_loop(0, calls, body, jnp.zeros((), w.dtype))

    def run(calls: int) -> Callable[[], Any]:
        return lambda: loop(jnp.asarray(calls, jnp.int32), *arguments)

    seconds(run(1))
    calls = int(np.clip(budget / seconds(run(1)), 2, 2000))
    return run(calls), calls


def medians(calls: dict[str, tuple[Callable[[], Any], float]], rounds: int = ROUNDS) -> dict[str, float]:
    """Seconds per unit of calls made in turn; each comes with the number of units in it."""
    for call, _ in calls.values():
        seconds(call)
    times = [{name: seconds(call) / units for name, (call, units) in calls.items()} for _ in range(rounds)]
    return {name: float(np.median([row[name] for row in times])) for name in calls}


# --- one problem --------------------------------------------------------------------------------------


def at_edge(case: Case, file: Path) -> Any:
    """The simulation of a case from the iterate at the edge, which is reached first if the file does not have it."""
    from cflow_cli.curvature.options import EigsOptions
    from cflow_cli.engine.simulation import Simulation
    from cflow_cli.engine.snapshot import Start, branch

    prepared = runs.prepare(composing.compose([*case.overrides, f"steps={case.edge}"])).simulation
    problem, optimizer = prepared.problem, prepared.optimizer.transformation
    if not file.exists():
        plain = Simulation(
            problem,
            optimizer,
            processes=["discrete"],
            steps=case.edge,
            eigs=EigsOptions(every=case.edge),
            measurements=(),
        )
        for _ in plain:
            pass
        reached = branch(plain.snapshot().arrays, "discrete")
        file.parent.mkdir(parents=True, exist_ok=True)
        state = {f"optimizer.{name}": array for name, array in reached.optimizer.items()}
        np.savez(file, before=reached.before, weights=reached.weights, **state)
    with np.load(file) as saved:
        names = [name for name in saved if name.startswith("optimizer.")]
        state = {name.removeprefix("optimizer."): saved[name] for name in names}
        start = Start(saved["before"], saved["weights"], state)
    steps = 10**6
    rows = max(case.settle, case.chunk)
    # Without evaluations of accuracy, which would fall into some of the timed chunks and not into others.
    measured = tuple(m for m in prepared.options.measurements if m.name != "evaluation")
    return Simulation(
        problem,
        optimizer,
        prepared.options,
        measurements=measured,
        steps=steps,
        pause_every=None,
        start=start,
        chunk=rows,
    )


class Chunk:
    """A process of a settled simulation, run over the same chunk of steps again and again."""

    def __init__(self, simulation: Any, name: str, path: Any, steps: int) -> None:
        import jax.numpy as jnp

        self.process, self.state = simulation.processes[name], simulation.states[name]
        self.block, self.steps = simulation.blocks[name], steps
        fixed = (self.process, simulation.problem, simulation.context, self.state, path)
        first, start, settled = (jnp.asarray(i, jnp.int32) for i in (simulation.step, 0, 0))
        self._arguments = lambda stop: (*fixed, first, start, jnp.asarray(stop, jnp.int32), settled)

    def __call__(self, steps: int | None = None) -> Any:
        """Result of the steps, all of them unless told otherwise."""
        from cflow_cli.engine.chunk import run_chunk

        return run_chunk(*self._arguments(self.steps if steps is None else steps))

    def records(self) -> dict[str, np.ndarray] | None:
        """Records of the steps; None if they do not end where they should."""
        import jax

        result = jax.device_get(self())
        if int(result.done) < self.steps:
            return None
        return {name: values[: self.steps] for name, values in result.records.items()}

    def host(self) -> None:
        """What the host does per chunk: a call, and fetching the records."""
        import jax

        jax.device_get(self(0).records)

    def compile_seconds(self) -> float:
        """Tracing, lowering and compiling the program of a chunk without any cache."""
        import jax
        from jax.experimental.compilation_cache import compilation_cache

        from cflow_cli.engine.chunk import run_chunk

        jax.clear_caches()
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()
        began = time.perf_counter()
        run_chunk.lower(*self._arguments(self.steps)).compile()
        return time.perf_counter() - began


@contextmanager
def recorded_problems(problems: list[Any]) -> Iterator[None]:
    """Note the arguments of every complementarity problem that is solved meanwhile."""
    import jax

    from cflow_cli.flows import sdcp

    solve = sdcp.solve

    def noted(*arguments: Any) -> Any:
        jax.debug.callback(lambda *values: problems.append([np.asarray(v) for v in values]), *arguments)
        return solve(*arguments)

    sdcp.solve = noted
    try:
        yield
    finally:
        sdcp.solve = solve


def central_parts(simulation: Any, chunk: Chunk, path: Any, hvps: float, pairs: float) -> dict[str, float]:
    """Seconds per step of the parts of the central flow's step, each compiled alone."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    from cflow_cli.curvature.block import track
    from cflow_cli.engine.processes import Reference
    from cflow_cli.flows import sdcp
    from cflow_cli.flows.third_derivatives import Directions, differentiate

    problem, flow, stepper = simulation.problem, chunk.state.process, chunk.process.stepper
    d, _ = eqx.filter_jit(stepper.optimizer.linear_response)(flow.optimizer)
    root, block = jnp.sqrt(d), len(flow.vectors)

    def tracking(iterations: int) -> Callable[..., Any]:
        def part(w: Any, rows: Any) -> Any:
            linear = problem.linearize(w)
            found = track(
                lambda v: root * linear.hvp(root * v),
                rows,
                above=jnp.inf,
                tolerance=0.0,
                max_iterations=iterations,
            )
            return linear.gradient, found

        return part

    parts = {
        "once": looped(tracking(0), flow.weights, flow.vectors),
        "expanded": looped(tracking(1), flow.weights, flow.vectors),
    }
    # k directions have k(k+1)/2 pairs.
    critical = jnp.asarray(round((np.sqrt(8 * pairs + 1) - 1) / 2), jnp.int32)
    if pairs:
        parts["third"] = looped(
            lambda w, v: (
                differentiate(
                    problem, w, Directions(v, root, critical, jnp.zeros(len(v))), stepper.pair_batch
                ).rows
            ),
            flow.weights,
            flow.vectors,
        )
        problems: list[Any] = []
        with recorded_problems(problems):

            @eqx.filter_jit
            def walk(state: Any) -> Any:
                def body(r: Any, state: Any) -> Any:
                    ref = Reference(
                        *(simulation.step + r, path.weights[r], path.weights[r + 1], path.weights[r + 2]),
                        *(path.step_size[r], (), jnp.asarray(chunk.process.eigs.max_iterations)),
                    )
                    return chunk.process.step(problem, simulation.context, state, ref)[0]

                return jax.lax.fori_loop(0, chunk.steps, body, state)

            jax.block_until_ready(walk(chunk.state.process))
            jax.effects_barrier()
        stacked = [jnp.asarray(np.stack(values)) for values in zip(*problems, strict=True)]
        # One after the other, as in a run.
        solve = jax.jit(lambda *p: jax.lax.map(lambda one: sdcp.solve(*one).x, p))
        parts["SDCP"] = ((lambda: [solve(*stacked) for _ in range(10)]), 10 * len(problems))
    times = medians(parts)
    expansions = hvps / block - 1
    return {
        "eigenvalues": times["once"] + expansions * (times["expanded"] - times["once"]),
        "third derivatives": times.get("third", 0.0) * (pairs / max(int(critical * (critical + 1) // 2), 1)),
        "SDCP": times.get("SDCP", 0.0),
    }


def measure(name: str, folder: Path) -> dict[str, Any]:
    """All figures of one problem."""
    import jax

    from cflow_cli.storage import RunWriter

    case = CASES[name]
    simulation = at_edge(case, folder / f"{name}.npz")
    written = []
    for chunk in simulation:
        written.append(chunk)
        if chunk.step >= case.settle:
            break
    problem, dtype = simulation.problem, simulation.problem.w0.dtype
    rows = max(case.settle, case.chunk)
    _, path = simulation.take_path(rows, case.chunk)
    chunks = {process: Chunk(simulation, process, path, case.chunk) for process in simulation.processes}
    records = {process: chunk.records() for process, chunk in chunks.items()}
    lost = [process for process, found in records.items() if found is None]
    chunks = {process: chunk for process, chunk in chunks.items() if process not in lost}

    central = chunks["central"].state.process
    blocks = {process: chunk.block for process, chunk in chunks.items()}
    gradient, calls = looped(lambda w: problem.gradient(w), central.weights)
    timed: dict[str, tuple[Callable[[], Any], float]] = {"gradient": (gradient, calls)}

    def block(w: Any, v: Any) -> Any:
        linear = problem.linearize(w)
        return linear.gradient, linear.hvp(v)

    def thirds(w: Any, v: Any) -> Any:
        # Along one direction twice, as the flow takes them.
        return jax.lax.map(lambda q: problem.third(w, q, q), v)

    for k in sorted(set(blocks.values())):
        v = jax.random.normal(jax.random.key(k), (k, len(central.weights)), dtype)
        timed[f"block {k}"] = looped(block, central.weights, v)
    third, calls = looped(thirds, central.weights, central.vectors[:2])
    timed["third"] = (third, 2 * calls)
    timed |= {process: (chunk, chunk.steps) for process, chunk in chunks.items()}
    times = medians(timed)
    g = times["gradient"]

    result: dict[str, Any] = {
        "parameters": problem.num_parameters,
        "dtype": str(dtype),
        "gradient_seconds": g,
        "third": times["third"] / g,
        "lost": lost,
        "processes": {},
    }
    hvp = {k: (times[f"block {k}"] - g) / k for k in set(blocks.values())}
    result["hvp"] = hvp[blocks["central"]] / g
    for process in chunks:
        found = records[process]
        means = {key: float(np.mean(found[key])) for key in ("gradients", "hvps")}
        means["third_derivatives"] = float(np.mean(found.get("third_derivatives", 0)))
        evaluations = (
            means["gradients"] * g
            + means["hvps"] * hvp[blocks[process]]
            + means["third_derivatives"] * times["third"]
        )
        result["processes"][process] = {
            "block": blocks[process],
            "critical": float(np.mean(found["num_critical"])),
            "seconds": times[process],
            **means,
            "in_gradients": times[process] / g,
            "beyond_derivatives": 1 - evaluations / times[process],
            "troubled_steps": int(np.sum(found["status"] > 0)),
        }
    step, means = times["central"], result["processes"]["central"]
    parts = central_parts(
        simulation, chunks["central"], path, means["hvps"] / means["gradients"], means["third_derivatives"]
    )
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "run"
        writer = RunWriter(run, columns=simulation.columns, kinds=simulation.kinds)
        writer.start({}, "")
        began = time.perf_counter()
        # As many steps as a run takes between two flushes, or ten times those of the settling.
        for one in written * 10:
            writer.write(one.metrics, one.eigenvalues)
        writer.flush()
        storage = (time.perf_counter() - began) / (10 * simulation.step * len(simulation.processes))
        writer.finish("done")
    host = medians({"host": (chunks["central"].host, rows)})["host"]
    parts |= {"host": host, "storage": storage}
    result["central_parts"] = {part: value / step for part, value in parts.items()}
    # The two that observe share a program, and so do the two flows.
    result["compile_seconds"] = {
        process: chunk.compile_seconds()
        for process, chunk in chunks.items()
        if process in ("discrete", "central")
    }
    stats = jax.devices()[0].memory_stats() or {}
    # Kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    result["peak_bytes"] = stats.get("peak_bytes_in_use", peak)
    result["device"] = jax.devices()[0].device_kind
    return result


# --- the command line -----------------------------------------------------------------------------------


def measure_command() -> dict[str, Any]:
    """Seconds of the default run to its first progress and to its end, with a cold and a warm compilation cache."""
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(Path(scratch) / "cache")}
        for cache in ("cold", "warm"):
            start = "import sys; from cflow_cli.cli import main; sys.exit(main())"
            command = [sys.executable, "-c", start, "run", f"hydra.run.dir={scratch}/{cache}"]
            began, first = time.perf_counter(), None
            with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
                for line in process.stdout or ():
                    if first is None and line.startswith("step "):
                        first = time.perf_counter() - began
            if process.returncode:
                raise SystemExit(f"the default run failed with status {process.returncode}")
            out[cache] = {"first_progress": first, "seconds": time.perf_counter() - began}
    return out


def measure_kernel() -> dict[str, Any]:
    """Seconds of a tangent kernel and of its spectrum, by its rows."""
    import jax

    from cflow_cli import curvature

    out: dict[str, Any] = {}
    for examples in KERNEL_EXAMPLES:
        simulation = runs.prepare(composing.compose([f"data.n={examples}"])).simulation
        problem = simulation.problem
        places, w = problem.counted_outputs, problem.w0
        terms = np.asarray(problem.num_terms, w.dtype)
        spectrum = jax.jit(curvature.kernel_spectrum, static_argnums=1)
        kernel = curvature.dense_kernel(problem.all_outputs, w, places, terms)

        def columns(problem: Any = problem, w: Any = w, places: Any = places, terms: Any = terms) -> Any:
            return curvature.dense_kernel(problem.all_outputs, w, places, terms)

        def values(kernel: Any = kernel, spectrum: Any = spectrum) -> Any:
            return spectrum(kernel, 10)

        times = medians({"columns": (columns, 1), "eigenvalues": (values, 1)})
        out[str(len(places))] = {part: {"seconds": time} for part, time in times.items()}
    return out


def measure_path() -> dict[str, Any]:
    """Seconds of ``cflow path`` for a Bézier curve between two default runs, with a cold and a warm cache."""
    start = (sys.executable, "-c", "import sys; from cflow_cli.cli import main; sys.exit(main())")
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        ends = [f"{scratch}/{seed}" for seed in (0, 1)]
        for seed, end in enumerate(ends):
            words = ["run", f"seed={seed}", "processes=[discrete]", f"hydra.run.dir={end}"]
            subprocess.run([*start, *words], check=True, stdout=subprocess.DEVNULL)
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": f"{scratch}/cache"}
        for cache in ("cold", "warm"):
            folder = Path(scratch) / cache
            began = time.perf_counter()
            command = [*start, "path", *ends, "kind=bezier", f"out={folder}"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
            whole = time.perf_counter() - began
            about = json.loads((folder / "path.json").read_text(encoding="utf-8"))
            out[cache] = {"curve": about["paths"]["bezier"]["seconds"], "seconds": whole}
    return out


# --- tables -------------------------------------------------------------------------------------------------


def render(results: dict[str, Any]) -> str:
    """The tables of a measurement."""
    problems = {name: r for name, r in results.items() if name not in (COMMAND, PATH, KERNEL)}
    texts = [
        markdown(
            ["problem", "weights", "dtype", "gradient ms", "HVP (gradients)", "third (gradients)", "peak MB"],
            [
                [
                    *(name, r["parameters"], r["dtype"], 1e3 * r["gradient_seconds"], r["hvp"], r["third"]),
                    r["peak_bytes"] / 1e6,
                ]
                for name, r in problems.items()
            ],
        ),
        markdown(
            [
                *("problem", "process", "critical", "block", "gradients", "HVPs", "thirds", "ms per step"),
                *("in gradients", "beyond derivatives %", "compile s"),
            ],
            [
                [
                    *(name, process, round(p["critical"], 1), p["block"], p["gradients"], p["hvps"]),
                    *(p["third_derivatives"], 1e3 * p["seconds"], p["in_gradients"]),
                    *(100 * p["beyond_derivatives"], r["compile_seconds"].get(process, "")),
                ]
                for name, r in problems.items()
                for process, p in r["processes"].items()
            ],
        ),
    ]
    parts = ["eigenvalues", "third derivatives", "SDCP", "host", "storage"]
    texts.append(
        markdown(
            ["central flow, % of a step", *parts],
            [[name, *(100 * r["central_parts"][part] for part in parts)] for name, r in problems.items()],
        )
    )
    if COMMAND in results:
        texts.append(
            markdown(
                ["`cflow run`, compilation cache", "first progress s", "whole run s"],
                [[cache, *figures.values()] for cache, figures in results[COMMAND].items()],
            )
        )
    if KERNEL in results:
        texts.append(
            markdown(
                ["tangent kernel, rows", "columns s", "eigenvalues s"],
                [
                    [rows, *(part["seconds"] for part in parts.values())]
                    for rows, parts in results[KERNEL].items()
                ],
            )
        )
    if PATH in results:
        texts.append(
            markdown(
                [
                    "`cflow path … kind=bezier`, compilation cache",
                    "curve and its losses s",
                    "whole command s",
                ],
                [[cache, *figures.values()] for cache, figures in results[PATH].items()],
            )
        )
    return "\n".join(texts)


def main(argv: list[str] | None = None) -> int:
    """Measure what is missing, then write and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = [*CASES, COMMAND, PATH, KERNEL]
    own_measures = {COMMAND: measure_command, PATH: measure_path, KERNEL: measure_kernel}
    parser.add_argument(
        "--only", nargs="+", choices=every, metavar="PROBLEM", default=every, help=f"among {', '.join(every)}"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"), help="folder (outputs/bench)")
    parser.add_argument("--again", action="store_true", help="measure problems that have been measured")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        file = args.out / f"{name}.json"
        if file.exists() and not args.again:
            continue
        print(f"measuring {name}", file=sys.stderr, flush=True)
        if args.here or name in (COMMAND, PATH):
            result = own_measures[name]() if name in own_measures else measure(name, args.out)
            file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            continue
        own = ["--here", "--again", "--only", name, "--out", str(args.out)]
        ended = subprocess.run([sys.executable, "-m", "benchmarks.bench", *own], check=False).returncode
        if ended:
            return ended
    if args.here:
        return 0
    files = {name: args.out / f"{name}.json" for name in every}
    results = {
        name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.exists()
    }
    (args.out / "bench.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (args.out / "bench.md").write_text(render(results), encoding="utf-8")
    print(render(results), end="")
    print(f"{args.out / 'bench.json'}: compare two with python -m benchmarks.compare", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
