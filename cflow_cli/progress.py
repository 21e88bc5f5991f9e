"""What a run says while it goes on, and how it is told to stop."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from . import clock

if TYPE_CHECKING:
    from .simulation import Chunk

log = logging.getLogger(__name__)


class Interrupts:
    """Turns the first SIGINT, SIGTERM or SIGUSR2 into a wish to stop after the current chunk; a second is immediate.

    Only in the main thread, which alone may set handlers. Where a cluster's launcher listens to SIGUSR2 (to requeue the
    job) it is told once the run has been saved; where it ignores SIGTERM, which some clusters send long before the
    end and others shortly before, the run is saved and goes on.

    Parameters
    ----------
    say
        Shows a line.
    stop_at_once
        Called at a second signal.
    """

    def __init__(self, say: Callable[[str], None], stop_at_once: Callable[[], None]) -> None:
        self.reason: str | None = None
        self.save = False
        self._say = say
        self._stop_at_once = stop_at_once
        self._before: dict[int, Any] = {}
        self._forward: tuple[Callable[..., None], int, FrameType | None] | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def forward(self) -> None:
        """Tell whoever else listens to the signal, now that the run has been saved."""
        if self._forward is not None:
            handler, number, frame = self._forward
            handler(number, frame)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        foreign = self._before[number]
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        if number == signal.SIGTERM and callable(foreign):
            self.save = True
            self._speak(f"{name}: saving after this chunk of steps")
            return
        if self.reason is not None:
            self._stop_at_once()
        self.reason = name
        if number == signal.SIGUSR2 and callable(foreign):
            self._forward = (foreign, number, frame)
        self._speak(f"{name}: stopping after this chunk of steps; once more stops at once")

    def _speak(self, text: str) -> None:
        with contextlib.suppress(RuntimeError):  # the signal came in the middle of another line
            self._say(text)


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
            self.say(f"step {chunk.step}/{self._steps}  {_figures(chunk)}{self._ahead(now, chunk.step)}")
            self._last_time, self._last_step = now, chunk.step
        if self._measured_from is None:
            self._measured_from = now, chunk.step

    def _ahead(self, now: float, step: int) -> str:
        # The first chunk compiles and says nothing about those after it.
        if self._measured_from is None or step >= self._steps or step == self._measured_from[1]:
            return ""
        began, first = self._measured_from
        return f"  about {clock.duration((now - began) / (step - first) * (self._steps - step))} left"


class Bar:
    """Progress as a bar, for terminals."""

    def __init__(self, steps: int) -> None:
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
        self._progress.update(self._task, completed=chunk.step, description=_figures(chunk))
        log.info("step %d  %s", chunk.step, _figures(chunk))


def display(steps: int, *, shared: bool) -> Lines | Bar:
    """Choose how to show a run: a bar on a terminal of its own, else lines."""
    return Bar(steps) if sys.stdout.isatty() and not shared else Lines(steps)


def _figures(chunk: Chunk) -> str:
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
