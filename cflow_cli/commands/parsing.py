"""How all sub-commands parse their arguments."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from cflow_cli.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ours, one sentence and status 2, and that takes no shortened options.

    Parameters
    ----------
    arguments
        See :class:`argparse.ArgumentParser`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **arguments})

    def options(self) -> dict[str, argparse.Action]:
        """What each option, such as ``--format``, does with its value; for completion."""
        return dict(self._option_string_actions)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print with the usage."""
        raise UserError(f"{message}; see {self.prog} --help")
