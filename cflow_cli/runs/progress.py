"""What a run says while it is under way."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from typing import TYPE_CHECKING

from cflow_cli import clock

if TYPE_CHECKING:
    from cflow_cli.engine.recording import Chunk

log = logging.getLogger(__name__)


class Lines:
    """Progress as plain lines, for files and pipes: one per twentieth of the run, at most one per second."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._last_time, self._last_step = time.monotonic(), 0
        self._measured_from: tuple[float, int] | None = None

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def say(self, text: str) -> None:
        """Show a line, and put it into the run's log."""
        # A reader that has left (head, a closed pager) is no reason to end a run of hours.
        with contextlib.suppress(BrokenPipeError):
            print(text, flush=True)
        log.info("%s", text)

    def advance(self, chunk: Chunk) -> None:
        """Show how far the run is."""
        for message in chunk.messages:
            self.say(f"note: {message}")
        now, last = time.monotonic(), chunk.step >= self._steps
        if last or (chunk.step - self._last_step >= self._steps / 20 and now - self._last_time >= 1):
            self.say(f"step {chunk.step}/{self._steps}  {_describe(chunk)}{self._time_left(now, chunk.step)}")
            self._last_time, self._last_step = now, chunk.step
        if self._measured_from is None:
            self._measured_from = now, chunk.step

    def _time_left(self, now: float, step: int) -> str:
        # The first chunk compiles and says nothing about those after it.
        if self._measured_from is None or step >= self._steps or step == self._measured_from[1]:
            return ""
        began, first = self._measured_from
        return f"  about {clock.duration((now - began) / (step - first) * (self._steps - step))} left"


class Bar:
    """Progress as a bar, for terminals."""

    def __init__(self, steps: int) -> None:
        # Rich is loaded only where there is a terminal to draw on.
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeRemainingColumn(),
            transient=True,
        )
        self._task = self._progress.add_task("compiling", total=steps)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Show a line, and put it into the run's log."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        log.info("%s", text)

    def advance(self, chunk: Chunk) -> None:
        """Show how far the run is."""
        for message in chunk.messages:
            self.say(f"note: {message}")
        self._progress.update(self._task, completed=chunk.step, description=_describe(chunk))
        log.info("step %d  %s", chunk.step, _describe(chunk))


def display(steps: int, *, shared: bool) -> Lines | Bar:
    """Choose how to show a run: a bar on a terminal of its own, else lines."""
    return Bar(steps) if sys.stdout.isatty() and not shared else Lines(steps)


def _describe(chunk: Chunk) -> str:
    def of(values: dict[str, float]) -> float | None:
        return next((values[name] for name in ("central", "midpoint", "discrete") if name in values), None)

    loss = chunk.loss.get("discrete", of(chunk.loss))
    sharpness = of(chunk.effective_sharpness)
    parts = [
        "" if loss is None else f"loss {loss:.4g}",
        "" if sharpness is None else f"S_eff {sharpness:.3f}",
        "" if chunk.num_critical is None else f"critical {chunk.num_critical}",
    ]
    return "  ".join(part for part in parts if part)
