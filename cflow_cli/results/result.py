"""What a run gave, whether it is in memory or on disk."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cflow_cli.engine import snapshot
from cflow_cli.errors import UserError
from cflow_cli.report import overview, plot, summary, tables
from cflow_cli.report.summary import Summary
from cflow_cli.storage import Run, checkpoints, find_runs, memory, read_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cflow_cli.engine.simulation import Simulation
    from cflow_cli.report.pictures import Film

IN_MEMORY = "simulation"
"""What a report calls a run that has no folder."""


class Result:
    """A run: its tables, its weights, and what a report makes of them; a notebook shows it as the report's table.

    From :func:`cflow_cli.simulate`, from disk with :func:`cflow_cli.load`, or of a simulation that one steps oneself
    with :meth:`of`.

    Parameters
    ----------
    run
        Its tables, config and manifest, as a report reads them.
    weights
        Final weights by process; by default those of the newest checkpoint on disk.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> from cflow_cli import Problem, simulate
    >>> problem = Problem.from_function(lambda w: 0.5 * jnp.sum(jnp.array([3.0, 1.0, 0.5]) * w**2), jnp.ones(3))
    >>> simulate(problem, optax.sgd(0.1), processes=("discrete", "midpoint"), steps=3)
    <Result of simulation: done, 3 steps of discrete, midpoint>
    """

    def __init__(self, run: Run, weights: dict[str, np.ndarray] | None = None) -> None:
        self.run = run
        if weights is not None:
            self.weights = weights  # instead of looking for them on disk

    @classmethod
    def of(cls, simulation: Simulation) -> Result:
        """What a simulation gave so far.

        Parameters
        ----------
        simulation
            One that keeps its rows; where it was left before its last step, the result says so.

        Raises
        ------
        ValueError
            Without ``keep_rows``: then the rows are only in the chunks.
        """
        left = simulation.step < simulation.steps
        manifest = {
            "status": "interrupted" if left else "done",
            "reason": f"left at step {simulation.step}" if left else None,
            "lr": simulation.learning_rate if isinstance(simulation.learning_rate, int | float) else None,
            "steps": simulation.steps,
            "step": simulation.step,
            "seed": simulation.options.seed,
            "warm_start": simulation.warm_start,
            "dtype": str(simulation.problem.w0.dtype),
            "num_parameters": simulation.problem.num_parameters,
            "counts": simulation.counts,
            "processes": simulation.statuses,
        }
        run = memory.in_memory(
            IN_MEMORY,
            manifest,
            {"metrics": simulation.metrics, "eigenvalues": simulation.eigenvalues},
            simulation.columns,
            simulation.kinds,
        )
        return cls(run, simulation.weights())

    # --- what was recorded --------------------------------------------------------------------------

    @property
    def metrics(self) -> pd.DataFrame:
        """One row per step and process; units and meanings of the columns are in ``run.columns``."""
        return self.run.metrics

    @property
    def eigenvalues(self) -> pd.DataFrame:
        """Long table: step, process, kind, index, value."""
        return self.run.eigenvalues

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """Weights that the optimizer and each flow have reached, flat, shape (n,) each.

        From disk, those of the newest checkpoint: where a run was killed, they are of an earlier step than the last
        rows. Empty while there is none.
        """
        try:
            return snapshot.weights(checkpoints.at_step(self.run.folder, None).arrays)
        except UserError:
            return {}

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Gradients, Hessian-vector products and third derivatives spent per process; empty until a run ends."""
        return self.run.manifest.get("counts") or {}

    @property
    def statuses(self) -> dict[str, dict[str, Any]]:
        """How each process ended, since which step, and a sentence; empty until a run ends."""
        return self.run.manifest.get("processes") or {}

    # --- what a report makes of it ------------------------------------------------------------------

    @cached_property
    def summary(self) -> Summary:
        """The run's row of ``cflow report``: ``summary.get("loss_error_central")``, and its notes."""
        return summary.summarise(self.run)

    def table(self) -> tables.Table:
        """``cflow report``'s table of this run alone."""
        return overview.build([self.summary])

    def plot(self) -> Figure:
        """Draw the panel of ``cflow plot``.

        Returns
        -------
        matplotlib.figure.Figure
            A notebook shows it; ``savefig("panel.pdf")`` keeps it.

        Raises
        ------
        UserError
            When the run has no rows yet.
        """
        return plot.panel(self.run)

    def animate(self, frames: int = 40) -> Film:
        """Draw a film in which the loss and the effective eigenvalues grow with the steps.

        Parameters
        ----------
        frames
            Number of pictures, a tenth of a second each.

        Returns
        -------
        cflow_cli.report.pictures.Film
            A notebook shows it; ``save("film.gif")`` keeps it.

        Raises
        ------
        UserError
            When the run has fewer than three rows, of which nothing grows.
        """
        # Matplotlib, which takes half a second: a table does without.
        from cflow_cli.report import pictures

        return pictures.animate(plot.edge(self.run), frames)

    def __repr__(self) -> str:
        """Name, status, steps and processes."""
        steps, processes = self.run.manifest.get("step", 0), ", ".join(self.metrics["process"].unique())
        return f"<Result of {self.run.folder}: {self.run.status}, {steps} steps of {processes}>"

    def _repr_html_(self) -> str:
        try:
            return tables.to_html(self.table())
        except UserError as error:  # a damaged part: a sentence, no traceback
            return tables.to_html(tables.Table([], [], [(str(self.run.folder), str(error))]))


def load(folder: Path | str) -> Result:
    """Read a run from disk: done, interrupted, killed or still going on.

    Of one that goes on it has what is written when its tables are first asked for; load it again for more.

    Parameters
    ----------
    folder
        A run's folder.

    Raises
    ------
    UserError
        When it is none; of a folder that holds runs, such as a sweep's, the sentence says how they are loaded.

    Examples
    --------
    All runs of a sweep::

        results = [cflow_cli.load(run) for run in cflow_cli.storage.find_runs(["outputs/sweep"])]
    """
    folder = Path(folder).expanduser()
    try:
        return Result(read_run(folder))
    except UserError:
        inside = find_runs([folder])
        if not inside or folder in inside:
            raise
        raise UserError(
            f"{folder} is not a run but holds {len(inside)} of them: load one, such as load({str(inside[0])!r}), "
            f"or all, [load(run) for run in cflow_cli.storage.find_runs([{str(folder)!r}])]"
        ) from None
