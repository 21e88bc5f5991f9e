"""TensorBoard: event files, written by tensorboardX, which needs neither TensorFlow nor PyTorch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams, image, text

from cflow_cli.loggers.base import Ending, Logger, RunInfo, as_text


@dataclass
class TensorBoard(Logger):
    """Scalars in single precision, the config under HPARAMS, notes and summary as texts, the panel as an image.

    Parameters
    ----------
    every, wait
        See :class:`~cflow_cli.loggers.base.Logger`.
    folder
        Where a folder of the run's name is made; None for ``tensorboard`` in the run folder, which
        ``tensorboard --logdir outputs`` finds.
    """

    folder: str | None = None

    def open(self, run: RunInfo) -> dict[str, Any]:
        """Begin an event file; that of a resumed run stands beside those before."""
        folder, self._step = run.folder_for("tensorboard", self.folder), 0
        folder.mkdir(parents=True, exist_ok=True)
        # Not SummaryWriter, whose flush leaves behind what is still in the queue of its own thread. Files are named by
        # the second, which two of a run may share.
        self._events = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        if not run.memory:
            config, start, _ = hparams(as_text(run.config), {})
            words = [
                text(name, told)
                for name, told in (("tags", ", ".join(run.tags)), ("notes", run.notes))
                if told
            ]
            for part in (config, start, *words):
                self._write(part)
            self.flush()
        return {"folder": str(folder)}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self._step = step
        self._write(
            Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()])
        )

    def flush(self) -> None:
        """Let TensorBoard see the points so far."""
        self._events.flush()

    def close(self, ending: Ending) -> None:
        """Add summary and picture at the last step, and close the file."""
        if ending.summary:
            rows = "\n".join(f"| {name} | {value} |" for name, value in ending.summary.items())
            self._write(text("summary", f"| quantity | value |\n|---|---|\n{rows}"))
        if ending.panel is not None:
            with Image.open(ending.panel) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self._write(image("panel", pixels, dataformats="HWC"))
        self._events.close()

    def _write(self, summary: Summary) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=self._step, summary=summary))
