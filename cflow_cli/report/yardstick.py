"""What any model of a run could reach at best: runs that differ in their kicks alone, measured against each other.

An optimizer at the edge multiplies small differences, so that no model that knows nothing of the kicks follows a run
better than the mean of other runs does. All distances are at the last step, where each run has a checkpoint, and over
that of the stable flow; the oscillation of the others is taken out as m = (w₋ + w)/2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cflow_cli.errors import attempt
from cflow_cli.report.summary import Summary
from cflow_cli.storage import checkpoints

# What may differ beside the kicks, because no weight depends on it.
_SILENT = ("kick_seed", "name", "notes", "tags", "hydra.run.dir", "device")
_FEWEST = 3
"""Runs from which on the mean of the others is more than another run."""


def add(summaries: Sequence[Summary]) -> None:
    """Give runs that differ in ``kick_seed`` alone, at least three of them, their values of the yardstick.

    Parameters
    ----------
    summaries
        Of any runs; ``floor``, ``pair`` and ``ens_…`` of some are set.
    """
    groups: dict[str, list[Summary]] = {}
    for summary in summaries:
        # Before a run oscillates, it is where the stable flow is.
        if (
            summary.values.get("status") == "done"
            and summary.get("onset") is not None
            and "stable" in summary.flows
        ):
            groups.setdefault(_alike(summary), []).append(summary)
    for members in groups.values():
        if len({summary.config.get("kick_seed") for summary in members}) >= _FEWEST:
            _measure(members)


def _alike(summary: Summary) -> str:
    """Equal for runs that differ in their kicks alone."""
    return str([item for item in sorted(summary.config.items()) if item[0] not in _SILENT])


def _measure(members: Sequence[Summary]) -> None:
    found: list[Any] = [attempt(lambda: checkpoints.at_step(s.folder, None), s.folder)[0] for s in members]  # noqa: B023
    if any(checkpoint is None for checkpoint in found) or len({c.step for c in found}) > 1:
        return
    runs = np.stack([c.arrays["discrete.weights"] for c in found]).astype(float)
    means = (runs + np.stack([c.arrays["discrete.before"] for c in found])) / 2
    for k, (summary, checkpoint) in enumerate(zip(members, found)):
        flows = {
            flow: checkpoint.arrays[f"{flow}.process.weights"]
            for flow in summary.flows
            if f"{flow}.process.weights" in checkpoint.arrays
        }
        summary.values.update(values(k, runs, means, flows))


def values(k: int, runs: np.ndarray, means: np.ndarray, flows: Mapping[str, np.ndarray]) -> dict[str, float]:
    """``floor`` and ``pair`` of one of several runs at one step, and ``ens_…`` of its flows.

    Parameters
    ----------
    k
        Which run.
    runs, means
        Weights w of each, and their m, shape (runs, n).
    flows
        Weights of the flows beside this run, the stable flow among them.
    """
    others = np.delete(means, k, axis=0)
    far = np.linalg.norm(runs[k] - flows["stable"])
    centre = means.mean(axis=0)
    scale = np.linalg.norm(flows["stable"] - centre)
    return {
        "floor": float(np.linalg.norm(runs[k] - others.mean(axis=0)) / far),
        "pair": float(np.linalg.norm(runs[k] - others, axis=1).mean() / far),
        **{
            f"ens_{flow}": float(np.linalg.norm(w - centre) / scale)
            for flow, w in flows.items()
            if flow != "stable"
        },
    }
