"""Giving the rows of a run to its loggers, none of which can stop it, slow it or change it.

Each logger has a thread, and a queue of chunks of steps that a run never waits for: where a logger is so slow that its
queue is full, the newest chunks are left out and counted. What a logger raises ends that logger alone.

``loggers/NAME.json`` in the run folder has what must outlive a kill: the run's id there, what the logger wants to
remember, and the first step that it has not been given. That is written before the steps are given, so none is given
twice; those of the moment in which a run was killed may be missing.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cflow_cli.errors import one_sentence
from cflow_cli.loggers.base import Ending, Logger, RunInfo

log = logging.getLogger(__name__)

Describe = Callable[[Path, str], Ending]
"""Run folder and status -> how the run ended, with its picture; the report's, which a run does not know."""

# Chunks of steps that may wait for a slow logger.
_QUEUE = 256


class Tracking:
    """The loggers of one run.

    Parameters
    ----------
    loggers
        Name -> logger, built but not opened.
    about
        What they are told of the run; id and memory are each one's own.
    describe
        Makes the summary and the picture for the end; without it there are none.
    """

    def __init__(
        self, loggers: Mapping[str, Logger], about: RunInfo, describe: Describe | None = None
    ) -> None:
        self._about, self._describe = about, describe
        self._workers = [_Worker(name, logger, about) for name, logger in loggers.items()]
        self._told: set[str] = set()

    def write(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Take the rows of a chunk, columns by name; returns at once."""
        for worker in self._workers:
            worker.put(metrics)
        self._tell()

    def finish(self, status: str) -> dict[str, Any]:
        """Close the loggers, each within its time.

        Parameters
        ----------
        status
            ``done``, ``interrupted`` or ``failed``.

        Returns
        -------
        dict
            For the manifest: of each logger its ids, and a note where something went wrong.
        """
        if not self._workers:
            return {}
        ending = Ending(status)
        try:
            # After an interruption the machine may be about to go, and the run is not at its end.
            if self._describe is not None and status != "interrupted":
                ending = self._describe(self._about.folder, status)
        except Exception as error:
            print(f"warning: no picture for the loggers: {one_sentence(error)}", file=sys.stderr)
        try:
            for worker in self._workers:
                worker.end(ending)
            began = time.monotonic()
            for worker in self._workers:
                worker.wait_from(began)
        except KeyboardInterrupt:
            print("interrupted: not waiting for the loggers any longer", file=sys.stderr)
        self._tell()
        return {"loggers": {worker.name: worker.outcome() for worker in self._workers}}

    def _tell(self) -> None:
        """Say what went wrong since the last time, once for each logger."""
        for worker in self._workers:
            if worker.trouble is not None and worker.name not in self._told:
                self._told.add(worker.name)
                text = f"logger {worker.name}: {worker.trouble}; the run is not affected"
                print(f"warning: {text}", file=sys.stderr, flush=True)
                log.warning("%s", text)


@dataclass
class _State:
    """What outlives a kill.

    Parameters
    ----------
    id
        The run's own for this logger.
    step
        First step that was not given to it.
    memory
        What it gave when it was opened.
    """

    id: str
    step: int = 0
    memory: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path) -> _State:
        """Read it, or begin where there is none."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return cls(uuid.uuid4().hex[:12])

    def save(self, path: Path) -> None:
        """Write it in one step; not forced onto the disk as a run's own files are, for a kill leaves it there too."""
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(json.dumps(vars(self)) + "\n", encoding="utf-8")
        os.replace(temporary, path)  # noqa: PTH105 - atomic


class _Worker:
    """One logger on its thread."""

    def __init__(self, name: str, logger: Logger, about: RunInfo) -> None:
        self.name, self._logger = name, logger
        self.trouble: str | None = None
        self._path = about.folder / "loggers" / f"{name}.json"
        self._state = _State.of(self._path)
        self._about = replace(about, id=self._state.id, memory=self._state.memory)
        self._left_out = 0
        self._queue: queue.Queue[Mapping[str, np.ndarray] | Ending] = queue.Queue(_QUEUE)
        # A daemon: one that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name=f"logger {name}", daemon=True)
        self._thread.start()

    def put(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Queue the rows that the logger wants; where there is no room they are left out."""
        wanted = metrics["step"] % self._logger.every == 0
        if self.trouble is not None or not wanted.any():
            return
        rows = {name: values[wanted] for name, values in metrics.items()}
        try:
            self._queue.put_nowait(rows)
        except queue.Full:
            self._left_out += len(np.unique(rows["step"]))

    def end(self, ending: Ending) -> None:
        """Queue the end; for that there is always room."""
        while True:
            try:
                return self._queue.put_nowait(ending)
            except queue.Full:
                try:
                    dropped = self._queue.get_nowait()
                    self._left_out += len(np.unique(dropped["step"])) if isinstance(dropped, Mapping) else 0
                except queue.Empty:
                    pass

    def wait_from(self, began: float) -> None:
        """Wait until it is closed, or until its time since ``began`` is over."""
        self._thread.join(max(began + self._logger.wait - time.monotonic(), 0.0))
        if self._thread.is_alive() and self.trouble is None:
            self.trouble = f"it had not finished {self._logger.wait:g} s after the end of the run"
        if self._left_out and self.trouble is None:
            self.trouble = f"it was too slow, and {self._left_out} steps were not sent to it"

    def outcome(self) -> dict[str, Any]:
        """What the manifest says of it."""
        note = {} if self.trouble is None else {"note": self.trouble}
        return {"id": self._state.id, **self._state.memory, "step": self._state.step, **note}

    def _work(self) -> None:
        try:
            self._state.save(self._path)  # the id, before anybody else knows it
            self._state.memory = dict(self._logger.open(self._about) or {})
            self._state.save(self._path)
            while not isinstance(item := self._queue.get(), Ending):
                self._send(item)
            self._logger.close(item)
        except BaseException as error:  # some trackers end a program with SystemExit
            self.trouble = one_sentence(error)

    def _send(self, metrics: Mapping[str, np.ndarray]) -> None:
        rows = [row for row in scalars(metrics) if row[0] >= self._state.step]
        if not rows:
            return
        self._state.step = rows[-1][0] + 1
        self._state.save(self._path)
        for step, values in rows:
            self._logger.log(step, values)
        self._logger.flush()


def scalars(metrics: Mapping[str, np.ndarray]) -> Iterator[tuple[int, dict[str, float]]]:
    """Rows of the metrics as one mapping per step, ``{"central/loss": …}``.

    Parameters
    ----------
    metrics
        Columns of shape (rows,), in the order of their steps; what is missing (NaN, a negative count) or infinite is
        left out.
    """
    steps, processes = metrics["step"], metrics["process"]
    columns = {
        name: (values, np.isfinite(values) & ((values >= 0) | (values.dtype.kind == "f")))
        for name, values in metrics.items()
        if name != "step" and values.dtype.kind in "iuf"
    }
    ends = [*(np.flatnonzero(np.diff(steps)) + 1), len(steps)] if len(steps) else []
    for first, end in zip([0, *ends], ends):
        yield (
            int(steps[first]),
            {
                f"{processes[row]}/{name}": values[row].item()
                for row in range(first, end)
                for name, (values, known) in columns.items()
                if known[row]
            },
        )
