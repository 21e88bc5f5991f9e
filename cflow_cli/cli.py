"""The command ``cflow``: which sub-command is meant, and how an error is told."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from cflow_cli import __version__, together
from cflow_cli.commands import SUMMARIES
from cflow_cli.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USER_ERROR,
    LOST,
    UserError,
    did_you_mean,
    is_loss,
    printable,
    wants_traceback,
)


def entry() -> NoReturn:
    """The program ``cflow``: :func:`main`, and an exit that waits for nothing that was interrupted or hangs."""
    status = main()
    if together.count() > 1 and status != 0:
        together.leave(status)
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    # XLA's compiler may be at work in one of them: it can take minutes, and cannot be stopped. A tracker that waits for
    # its server may have told the interpreter to do so at its end, too.
    compiling = status == EXIT_INTERRUPTED and not all(thread.daemon for thread in others)
    if compiling or any(thread.name.startswith("logger ") for thread in others):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments after ``cflow``; those of this process by default.

    Returns
    -------
    int
        Exit status: 0; 1 for a run that failed; 2 for a request that cannot be carried out; 130 when
        interrupted.
    """
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        if wants_traceback():
            raise
        if not isinstance(error, together.Told):
            print(f"error: {printable(str(error))}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has left; nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:
        if wants_traceback():
            raise
        if is_loss(error):
            print(f"error: {LOST}", file=sys.stderr)
            return EXIT_FAILED
        text = printable(" ".join(str(error).split())[:300])
        print(f"error: {type(error).__name__}: {text} (CFLOW_TRACEBACK=1 shows where)", file=sys.stderr)
        return EXIT_FAILED


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"cflow {__version__}")
        return 0
    if argv[0] in SUMMARIES:
        return importlib.import_module(f"cflow_cli.commands.{argv[0]}").main(argv[1:])
    if "=" in argv[0]:
        raise UserError(f"{argv[0]!r} is an override, which needs a sub-command: cflow run {' '.join(argv)}")
    hint = did_you_mean(argv[0], SUMMARIES)
    raise UserError(f"unknown sub-command {argv[0]!r}{hint}; there are {', '.join(SUMMARIES)}")


def _help() -> str:
    commands = "\n".join(f"  {name:<12}{summary}" for name, summary in SUMMARIES.items())
    return (
        "usage: cflow COMMAND …\n\n"
        "Run an optimizer and the differential equation of its time average side by side.\n\n"
        f"commands:\n{commands}\n\n"
        "cflow COMMAND --help says more; cflow run is a good start.\n"
        'Completion: eval "$(cflow completion bash)", or zsh, or cflow completion fish | source.'
    )
