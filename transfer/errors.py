"""The ways in which a command can fail on purpose: each is one line for the person at the keyboard."""

import difflib
from collections.abc import Iterable


class TransferError(Exception):
    """Something outside the program is wrong; the message says what, where, and what to do. Exit code 1."""

    exit_code = 1


class UsageError(TransferError):
    """An argument, a flag or a configuration value is wrong. Exit code 2."""

    exit_code = 2


class RowsError(TransferError, ValueError):
    """Features or labels that no head can use. A ValueError too: what scikit-learn and its callers expect there."""


def near(name: str, known: Iterable[str]) -> str:
    """What a message about an unknown `name` adds: "; did you mean …?", or nothing where no known one is like it."""
    close = difflib.get_close_matches(name, known)
    return f"; did you mean {' or '.join(close)}?" if close else ""
