"""Weights & Biases: offline by default, to be uploaded by ``wandb sync``, or as the run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import wandb

from cflow_cli.loggers.base import Ending, Logger, RunInfo

MODES = ("offline", "online")


@dataclass
class WandB(Logger):
    """A run of Weights & Biases, grouped by the sweep it belongs to.

    Parameters
    ----------
    every, wait
        See :class:`~cflow_cli.loggers.base.Logger`.
    project, entity
        Whose run it is; the entity is the account's own where None.
    mode
        ``offline``: into ``wandb`` in the run folder. ``online``: to the server, with the key of ``wandb login``.
    """

    project: str = "cflow"
    entity: str | None = None
    mode: str = "offline"

    def __post_init__(self) -> None:
        """Check what no type can say."""
        super().__post_init__()
        if self.mode not in MODES:
            raise ValueError(f"mode must be {' or '.join(MODES)}, got {self.mode!r}")

    def open(self, run: RunInfo) -> dict[str, Any]:
        """Begin the run, or go on under the same id."""
        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,  # type: ignore[arg-type]
            id=run.id,
            # Offline, wandb sync brings together what has the same id.
            resume="allow" if self.mode == "online" else None,
            dir=run.folder,
            name=run.name,
            group=run.group,
            tags=run.tags,
            notes=run.notes,
            config=dict(run.config),
            # Several runs of a sweep may share a process; what a run prints is in its own log.
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )
        there = {"url": self._run.url} if self.mode == "online" else {}
        return {"id": run.id, "project": self.project, **there}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log a step."""
        self._run.log(dict(values), step=step)

    def close(self, ending: Ending) -> None:
        """Add summary and picture, and finish the run."""
        self._run.summary.update(dict(ending.summary))
        if ending.panel is not None:
            self._run.log({"panel": wandb.Image(str(ending.panel))})
        self._run.finish(exit_code=0 if ending.status == "done" else 1)
