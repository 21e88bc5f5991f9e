"""What all sub-commands share: how they parse, and the exit statuses they return."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from .errors import UserError

EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ours, one sentence and status 2, and that takes no shortened options.

    Parameters
    ----------
    arguments
        As of :class:`argparse.ArgumentParser`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **arguments})

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print with the usage."""
        raise UserError(f"{message}; see {self.prog} --help")
