"""Errors whose message is meant for the user as it stands."""

import os


class UserError(Exception):
    """What the user asked for cannot be done; the message says what is wrong, what is allowed, what helps."""


def wants_traceback() -> bool:
    """Whether the user asked for tracebacks: CFLOW_TRACEBACK=1 or HYDRA_FULL_ERROR=1."""
    return any(os.environ.get(name) == "1" for name in ("CFLOW_TRACEBACK", "HYDRA_FULL_ERROR"))
