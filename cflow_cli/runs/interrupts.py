"""How a run is told to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interrupts:
    """Turns the first SIGINT, SIGTERM or SIGUSR2 into a wish to stop after the current chunk; a second is immediate.

    Before :attr:`unsaved` is set there is nothing that would be lost, so the first one is immediate, too: the programs
    of the first chunk can take minutes to compile. Immediate means a KeyboardInterrupt where the main thread is.

    Only in the main thread, which alone may set handlers. Where a cluster's launcher listens to SIGUSR2 (to requeue the
    job) it is told once the run has been saved; where it ignores SIGTERM, which some clusters send long before the
    end and others shortly before, the run is saved and continues.

    Parameters
    ----------
    say
        Shows a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.reason: str | None = None
        self.save = False
        self.unsaved = False
        self._say = say
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
            self._say_if_possible(f"{name}: saving after this chunk of steps")
            return
        if self.reason is not None:
            raise KeyboardInterrupt
        self.reason = name
        if number == signal.SIGUSR2 and callable(foreign):
            self._forward = (foreign, number, frame)
        if not self.unsaved:
            self._say_if_possible(f"{name}: stopping; nothing has been computed that would have to be saved")
            raise KeyboardInterrupt
        self._say_if_possible(f"{name}: stopping after this chunk of steps; once more stops at once")

    def _say_if_possible(self, text: str) -> None:
        with contextlib.suppress(RuntimeError):  # the signal came in the middle of another line
            self._say(text)
