"""Errors whose message is meant for the user as it stands."""


class UserError(Exception):
    """Something the user asked for cannot be done; the message says what is wrong, what is allowed, what to try."""
