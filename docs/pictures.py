"""The pictures of the page on concepts: `python docs/pictures.py [FOLDER]` draws them into docs/assets or FOLDER."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import pandas as pd  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from cflow_cli import Problem, simulate  # noqa: E402
from cflow_cli.config import composing  # noqa: E402
from cflow_cli.engine.simulation import Simulation  # noqa: E402
from cflow_cli.measurements.coordinates import Coordinates  # noqa: E402
from cflow_cli.measurements.stationary_preconditioner import StationaryPreconditioner  # noqa: E402
from cflow_cli.optimizers.update_map import UpdateMap  # noqa: E402
from cflow_cli.report import definitions, plot, style  # noqa: E402
from cflow_cli.runs import run as runs  # noqa: E402

ASSETS = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "assets"
RATE = 0.4
NAMES = {"discrete": "optimizer", "stable": "stable flow", "central": "central flow"}


def save(figure: Figure, name: str) -> None:
    """Write a picture as SVG, text as text."""
    ASSETS.mkdir(parents=True, exist_ok=True)
    with style.figure_style():
        figure.savefig(ASSETS / f"{name}.svg", metadata={"Date": None})
    print(ASSETS / f"{name}.svg")


def panels(number: int, height: float = 2.3) -> tuple[Figure, np.ndarray]:
    """Axes side by side."""
    figure = Figure(figsize=(2 * style.COLUMN, height), layout="constrained")
    return figure, figure.subplots(1, number)


def edge() -> Figure:
    """How fast an oscillation grows on ½hw², against S_eff: it changes sign at 2 for every optimizer."""
    optimizers = {
        "gradient descent": optax.sgd(RATE),
        "heavy ball, β = 0.9": optax.sgd(RATE, momentum=0.9),
        "Nesterov, β = 0.9": optax.sgd(RATE, momentum=0.9, nesterov=True),
        # RMSProp and Adam whose second moment is at rest are these, on rescaled weights.
        "Adam at fixed ν, β₁ = 0.9": optax.chain(optax.ema(0.9, debias=False), optax.scale(-RATE)),
    }
    figure, axes = panels(2)
    for colour, (name, optimizer) in zip(("midpoint", "stable", "rod", "edge"), optimizers.items()):
        update = UpdateMap.of(optimizer, jnp.ones(1))
        (d,) = np.asarray(update.linear_response(update.init(jnp.ones(1)))[0])
        effective = np.linspace(1.6, 2.4, 33)
        h = jnp.asarray(effective / d)

        def growth(h: jax.Array, optimizer: optax.GradientTransformation = optimizer) -> jax.Array:
            def step(carry, _):
                w, state = carry
                change, state = optimizer.update(h * w, state, w)
                return (w + change, state), w

            start = jnp.ones(())
            return jax.lax.scan(step, (start, optimizer.init(start)), None, length=401)[1]

        path = np.asarray(jax.vmap(growth)(h))
        # The largest of fifty steps: below its edge, momentum makes the oscillation beat.
        rate = (np.abs(path[:, 351:]).max(axis=1) / np.abs(path[:, 251:301]).max(axis=1)) ** 0.01
        dashes = "--" if "Adam" in name else "-"
        axes[0].plot(effective, rate, dashes, color=style.colour(colour), label=name)
        axes[1].plot(np.asarray(h) * RATE, rate, color=style.colour(colour), label=name)
    for ax, title in zip(axes, ("against S_eff = D h", "against η h")):
        ax.axhline(1, **style.THRESHOLD)
        ax.set_title(f"growth per step, {title}")
    axes[0].axvline(2, **style.THRESHOLD)
    axes[0].legend()
    axes[1].set_xscale("log")
    ticks = (1.36, 2, 3.8, 38)
    axes[1].set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
    axes[1].minorticks_off()
    return figure


def valley() -> Figure:
    """A valley L = ½(1 + y)x² + c(y − 12)² that narrows as one goes down it: the plane, and S_eff."""
    floor = 1e-3

    def loss(w: jax.Array) -> jax.Array:
        x, y = w
        return 0.5 * (1 + y) * x**2 + floor * (y - 12) ** 2

    problem = Problem.from_function(loss, jnp.array([0.02, 3.5]))
    steps = 260
    processes = ("discrete", "midpoint", "stable", "central")
    simulation = Simulation(
        problem, optax.sgd(RATE), processes=processes, steps=steps, kick=0.02, pause_every=1, warm_start=0
    )
    paths: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    for _ in simulation:
        weights = simulation.weights()
        for name in NAMES:
            paths[name].append(weights[name])
    metrics = simulation.metrics
    figure, axes = panels(2, 2.6)
    for name, label in NAMES.items():
        x, y = np.array(paths[name]).T
        look = {"linewidth": 0.5, "alpha": 0.8} if name == "discrete" else {"linewidth": 1.8}
        axes[0].plot(x, y, **style.line(name) | look, label=label)
    axes[0].axhline(2 / RATE - 1, **style.THRESHOLD)
    axes[0].set(xlim=(-0.42, 0.42), xlabel="x, across the valley", ylabel="y, along it")
    axes[0].set_title("the plane; dotted: S_eff = 2")
    for name in ("discrete", "stable", "central"):
        values = definitions.series(metrics, name, "effective_sharpness")
        look = {"linewidth": 0.8} if name == "discrete" else {"linewidth": 1.8}
        axes[1].plot(values.index, values, **style.line(name) | look, label=NAMES[name])
    axes[1].axhline(2, **style.THRESHOLD)
    axes[1].set_title("effective sharpness")
    axes[1].set_xlabel("optimizer step")
    axes[1].legend()
    return figure


def default_run() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Metrics and eigenvalues of `cflow run`."""
    from cflow_cli.storage import read_run

    with tempfile.TemporaryDirectory() as folder:
        runs.run(composing.compose([]), Path(folder) / "run")
        found = read_run(Path(folder) / "run")
        return found.metrics, found.eigenvalues


def predictions(metrics: pd.DataFrame, eigenvalues: pd.DataFrame) -> Figure:
    """Loss and variances of the oscillation, measured and predicted."""
    figure, axes = panels(2)
    plot.time_average(axes[0], metrics, "loss", "training loss")
    plot.variances(axes[1], eigenvalues)
    for ax in axes:
        ax.set_xlabel("optimizer step")
    return figure


def complementarity(eigenvalues: pd.DataFrame) -> Figure:
    """Eigenvalues and variances of the central flow: one is zero where the other is free."""
    figure, axes = panels(2)
    central = eigenvalues[eigenvalues["process"] == "central"]
    kinds = (
        ("effective", "effective eigenvalues λ of the central flow"),
        ("sigma", "variances: eigenvalues of X"),
    )
    for ax, (kind, title) in zip(axes, kinds):
        rows = central[(central["kind"] == kind) & (central["index"] < 3)]
        wide = rows.pivot_table(index="step", columns="index", values="value", observed=True)
        wide = wide.reindex(range(int(wide.index[-1]) + 1))
        for colour, (index, values) in zip(("central", "stable", "rod"), wide.items()):
            values = values[values > 0] if kind == "sigma" else values
            values = values.reindex(wide.index)
            ax.plot(
                values.index, values, color=style.colour(colour), linewidth=1.3, label=f"number {index + 1}"
            )
        ax.set_title(title)
        ax.set_xlabel("optimizer step")
    axes[0].axhline(2, **style.THRESHOLD)
    axes[0].set_ylim(0, 2.3)
    axes[0].legend(loc="lower right")
    axes[1].set_yscale("log")
    axes[1].set_ylim(bottom=1e-5)
    axes[1].set_xlim(axes[0].get_xlim())
    return figure


def stationary() -> Figure:
    """RMSProp's second moment along its central flow, and where it would come to rest."""
    scales = jnp.array([6.0, 3.0, 1.0, 0.5])

    def loss(w: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum(scales * jnp.sin(w[:-1]) ** 2) * (1 + w[-1] ** 2) + 0.02 * (w[-1] - 3) ** 2

    problem = Problem.from_function(loss, jnp.array([0.8, 1.0, 1.2, 1.3, 0.5]))
    measured = (Coordinates(watch=5), StationaryPreconditioner(every=5, watch=5))
    processes = ("discrete", "central")
    result = simulate(
        problem,
        optax.rmsprop(0.01, decay=0.97),
        processes=processes,
        measurements=measured,
        steps=400,
    )
    rows = result.eigenvalues[result.eigenvalues["process"] == "central"]
    figure, axes = panels(2)
    colours = ("central", "stable", "rod", "edge", "midpoint")
    for index, colour in zip(range(5), colours):
        for kind, look in (
            ("effective_step_size", {}),
            ("stationary_step_size", {"linestyle": (0, (2, 1.5))}),
        ):
            chosen = rows[(rows["kind"] == kind) & (rows["index"] == index)]
            label = f"weight {index + 1}" if kind == "effective_step_size" else None
            axes[0].plot(chosen["step"], chosen["value"], color=style.colour(colour), label=label, **look)
    axes[0].set_yscale("log")
    axes[0].set_title("effective step sizes; dotted: at rest")
    cosine = definitions.series(result.metrics, "central", "nu_cosine")
    axes[1].plot(cosine.index, cosine, color=style.colour("central"))
    axes[1].set_title("cosine of ν with ν̄")
    for ax in axes:
        ax.set_xlabel("optimizer step")
    return figure


def main() -> None:
    """Draw them all."""
    with style.figure_style():
        save(edge(), "concepts-edge")
        save(valley(), "concepts-flows")
        save(stationary(), "concepts-stationary")
        # Last: a run sets JAX up for itself.
        metrics, eigenvalues = default_run()
        save(predictions(metrics, eigenvalues), "concepts-predicted")
        save(complementarity(eigenvalues), "concepts-complementarity")


if __name__ == "__main__":
    main()
