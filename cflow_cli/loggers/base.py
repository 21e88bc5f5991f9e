"""What every logger has: settings, and four methods that a run calls on a thread of their own.

A logger is a dataclass of settings that derives from :class:`Logger`. It is opened once, given the scalars of one step
after the other, and closed at the end. Whatever it raises, and however long it takes, the run goes on: see
:mod:`cflow_cli.runs.tracking`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told of a run when it is opened.

    Parameters
    ----------
    name
        How the run is called: its ``name``, else its folder's; of a sweep with the sweep's before it.
    folder
        The run folder; what a tracker writes by default goes below it.
    id
        Random letters that are the run's own for this logger; the same ones when the run is resumed.
    config
        The resolved config with dotted keys.
    tags, notes
        The user's words on the run.
    group
        Name of the sweep that the run belongs to; None outside of a sweep.
    memory
        What :meth:`Logger.open` gave when the run was last here; empty for a run that begins.
    """

    name: str
    folder: Path
    id: str
    config: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    notes: str | None = None
    group: str | None = None
    memory: Mapping[str, Any] = field(default_factory=dict)

    def folder_for(self, what: str, root: str | None) -> Path:
        """Folder of a logger that writes files: one of the run's name in ``root``, else ``what`` in the run folder.

        It goes with a run folder that was moved, and is the one of before where the run is resumed from elsewhere.
        """
        if root is None:
            return self.folder.resolve() / what
        return Path(self.memory.get("folder", (Path(root).expanduser() / self.name).resolve()))


@dataclass(frozen=True)
class Ending:
    """How a run, or this stretch of it, ended.

    Parameters
    ----------
    status
        ``done``, ``interrupted`` or ``failed``.
    summary
        Its row in ``cflow report``: numbers and words by name.
    panel
        A PNG, the picture of ``cflow plot``; None where there is none, as after an interruption.
    """

    status: str
    summary: Mapping[str, float | int | str] = field(default_factory=dict)
    panel: Path | None = None


@dataclass
class Logger(ABC):
    """Base of all loggers; a subclass is a dataclass too, whose fields are the keys of its config.

    Parameters
    ----------
    every
        Optimizer steps between those that are sent.
    wait
        Seconds that the end of a run waits for it at most.
    """

    every: int = 1
    wait: float = 30.0

    def __post_init__(self) -> None:
        """Check what no type can say."""
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")
        if self.wait < 0:
            raise ValueError(f"wait must not be negative, got {self.wait}")

    @abstractmethod
    def open(self, run: RunInfo) -> Mapping[str, Any] | None:
        """Begin, or go on where ``run.memory`` says that the run was here before.

        Returns
        -------
        mapping or None
            What is needed to go on after an interruption, as JSON can hold it; the manifest shows it, too.
        """

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the scalars of one step: ``{"central/loss": …, "discrete/grad_norm_sq": …}``, all finite.

        Steps come in order and each one once, also when a run that was killed takes some of them again.
        """

    def flush(self) -> None:  # noqa: B027 - most have nothing to do here
        """Pass on what has been logged; called after each chunk of steps."""

    def close(self, ending: Ending) -> None:  # noqa: B027
        """Take how the run ended; one that was interrupted may be opened again later."""


def as_text(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as trackers take them: numbers, switches and words stay, anything else becomes text."""
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in values.items()
    }
