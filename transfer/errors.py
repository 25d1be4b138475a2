"""The ways in which a command can fail on purpose: each is one line for the person at the keyboard."""

import difflib
from collections.abc import Iterable, Sequence


class TransferError(Exception):
    """Something outside the program is wrong; the message says what, where, and what to do. Exit code 1."""

    exit_code = 1


class UsageError(TransferError):
    """An argument, a flag or a configuration value is wrong. Exit code 2."""

    exit_code = 2


class Unfinished(TransferError):
    """A run ended by no fault of this process: another is lost, or time is up; the same command goes on. Exit code 76.

    What the run has saved is there, but it may lack what this process did last.
    """

    exit_code = 76


class RowsError(TransferError, ValueError):
    """Features or labels that no head can use. A ValueError too: what scikit-learn and its callers expect there."""


def similar(name: str, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """The known names that an unknown one may mean, at most three, whatever its capitals, hyphens and underscores."""
    by_letters, wanted = {_letters(each): each for each in known}, _letters(name)
    close = [wanted] if wanted in by_letters else difflib.get_close_matches(wanted, by_letters, cutoff=cutoff)
    return [by_letters[each] for each in close]


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def did_you_mean(names: Sequence[str]) -> str:
    """What a message about an unknown name adds: "; did you mean A, B or C?", or nothing without such names."""
    return f"; did you mean {' or '.join(filter(None, (', '.join(names[:-1]), names[-1])))}?" if names else ""
