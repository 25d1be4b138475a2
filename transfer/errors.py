"""The ways in which a command can fail on purpose: each is one line for the person at the keyboard."""

import difflib
from collections.abc import Iterable, Sequence


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
    return did_you_mean(difflib.get_close_matches(name, known))


def did_you_mean(names: Sequence[str]) -> str:
    """The question at the end of such a message: "; did you mean a, b or c?"; nothing without names."""
    return f"; did you mean {' or '.join(filter(None, (', '.join(names[:-1]), names[-1])))}?" if names else ""
