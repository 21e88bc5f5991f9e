"""What a run says while it is under way."""

from __future__ import annotations

import contextlib
import logging
import statistics
import sys
import time
from collections import deque
from typing import TYPE_CHECKING

from cflow_cli import clock
from cflow_cli.errors import printable

if TYPE_CHECKING:
    from cflow_cli.engine.recording import Chunk

log = logging.getLogger(__name__)
# Chunks whose pace is taken for that of the rest.
_RECENT = 9


class Pace:
    """How long steps take, and so how long the rest will; compilation, which some chunks contain, does not count.

    Parameters
    ----------
    steps
        Of the whole run.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._last: tuple[float, int] | None = None
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def left(self, now: float, step: int) -> str:
        """Words on the time left at a step; empty while too little is known."""
        if self._last is not None and step > self._last[1]:
            then, before = self._last
            self._recent.append((now - then) / (step - before))
        self._last = now, step
        if not self._recent or step >= self._steps:
            return ""
        # The median, because a chunk that compiled took many times as long as others.
        return f"about {clock.duration(statistics.median(self._recent) * (self._steps - step))} left"


class Lines:
    """Progress as plain lines, for files and pipes: one per twentieth of the run, at most one per second."""

    def __init__(self, steps: int, unit: str) -> None:
        self._steps, self._unit = steps, unit
        self._last_time, self._last_step = time.monotonic(), 0
        self._pace = Pace(steps)

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def say(self, text: str) -> None:
        """Show a line, and put it into the run's log."""
        text = printable(text)
        # A reader that has left (head, a closed pager) is no reason to end a run of hours.
        with contextlib.suppress(BrokenPipeError):
            print(text, flush=True)
        log.info("%s", text)

    def advance(self, chunk: Chunk) -> None:
        """Show how far the run is."""
        for message in chunk.messages:
            self.say(f"note: {message}")
        self.reach(chunk.step, _describe(chunk))

    def reach(self, step: int, text: str = "") -> None:
        """Show that a step is reached, with what there is to say of it."""
        now, last = time.monotonic(), step >= self._steps
        left = self._pace.left(now, step)
        if last or (step - self._last_step >= self._steps / 20 and now - self._last_time >= 1):
            parts = (f"{self._unit} {step}/{self._steps}", text, left)
            self.say("  ".join(part for part in parts if part))
            self._last_time, self._last_step = now, step


class Bar:
    """Progress as a bar, for terminals; the time that has passed moves on while a chunk is computed or compiled."""

    def __init__(self, steps: int, unit: str) -> None:
        # Rich is loaded only where there is a terminal to draw on.
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            transient=True,
        )
        self._pace = Pace(steps)
        self._unit = unit
        self._task = self._progress.add_task(f"compiling, only once for all {unit}s", total=steps, left="")

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Show a line, and put it into the run's log."""
        text = printable(text)
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        log.info("%s", text)

    def advance(self, chunk: Chunk) -> None:
        """Show how far the run is."""
        for message in chunk.messages:
            self.say(f"note: {message}")
        self.reach(chunk.step, _describe(chunk))

    def reach(self, step: int, text: str = "") -> None:
        """Show that a step is reached, with what there is to say of it."""
        left = self._pace.left(time.monotonic(), step)
        self._progress.update(self._task, completed=step, description=text, left=left)
        log.info("%s %d  %s", self._unit, step, text)


def display(steps: int, *, shared: bool, unit: str = "step") -> Lines | Bar:
    """Choose how to show a run: a bar on a terminal of its own, else lines; ``unit`` is what is counted."""
    return Bar(steps, unit) if sys.stdout.isatty() and not shared else Lines(steps, unit)


def _describe(chunk: Chunk) -> str:
    """The optimizer's loss, and S_eff of the central flow where there is one: which, is said."""

    def of(values: dict[str, float]) -> tuple[str, float] | None:
        return next(
            ((name, values[name]) for name in ("central", "midpoint", "discrete") if name in values), None
        )

    loss = chunk.loss.get("discrete")
    sharpness = of(chunk.effective_sharpness)
    parts = [
        "" if loss is None else f"loss {loss:.4g}",
        "" if sharpness is None else f"S_eff {sharpness[1]:.3f} ({sharpness[0]})",
        "" if chunk.num_critical is None else f"critical {chunk.num_critical}",
    ]
    return "  ".join(part for part in parts if part)
