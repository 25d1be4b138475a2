"""Which networks, batches and dtypes a benchmark goes through, from what the user typed."""

import argparse
import fnmatch
from collections.abc import Collection, Iterable
from typing import NamedTuple

from transfer.errors import UsageError
from transfer.extract.extractor import DTYPES
from transfer.extract.program import PRECISIONS
from transfer.models import registry
from transfer.weights import catalogue

WILDCARDS = set("*?[")
DEFAULT_BATCH = "1,8"


class Case(NamedTuple):
    """One row of the table, before it is measured."""

    model: str
    batch: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.model}, batch {self.batch}, {self.dtype}"


def cases_of(options: argparse.Namespace, default_batch: str = DEFAULT_BATCH) -> list[Case]:
    """Every combination that the flags ask for, model by model, dtype by dtype.

    Raises UsageError for what is unknown in --models, --batch, --dtype or --precision.
    """
    batch, dtypes = options.batch or default_batch, words("dtype", options.dtype)
    batches = words("batch", batch)
    if not all(part.isdecimal() and int(part) for part in batches):
        raise UsageError(f"--batch={batch!r} should be whole numbers of at least 1, separated by commas")
    check_known("dtype", dtypes, DTYPES)
    check_known("precision", [options.precision], PRECISIONS)
    models = matching(options.models)
    return [Case(model, int(size), dtype) for model in models for dtype in dtypes for size in batches]


def matching(models: str) -> list[str]:
    """The names that comma separated names and wildcards stand for, in their order, each once.

    A wildcard with a dot in it goes through the catalogue (`resnet*.tv1`), one without through the architectures
    (`resnet*`): weights do not change the speed, so that it would only say the same thing several times over.

    Raises UsageError for one that stands for nothing.
    """
    names: dict[str, None] = {}
    for text in words("models", models):
        architectures = registry.architectures()
        if WILDCARDS & set(text):
            known = fnmatch.filter(catalogue.names() if "." in text else sorted(architectures), text)
        else:
            known = [text] if catalogue.find(text) is not None or text in architectures else []
        if not known:
            raise UsageError(f"--models: nothing is called {text!r}{catalogue.meant(text, architectures)}")
        names |= dict.fromkeys(known)
    return list(names)


def words(flag: str, text: str) -> list[str]:
    """What commas separate, each once; UsageError if there is nothing, or nothing between two of them."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"--{flag}={text!r} should be one or several, separated by commas")
    return list(dict.fromkeys(parts))


def chosen(flag: str, text: str, known: Collection[str]) -> list[str]:
    """The known names that comma separated names and wildcards stand for, upper or lower case, each once.

    Raises UsageError for one that stands for nothing.
    """
    names: dict[str, None] = {}
    for pattern in words(flag, text):
        meant = [name for name in known if fnmatch.fnmatchcase(name.lower(), pattern.lower())]
        if not meant:
            raise UsageError(f"--{flag}: nothing is called {pattern!r}; known are {', '.join(known)}")
        names |= dict.fromkeys(meant)
    return list(names)


def check_known(flag: str, values: Iterable[str], known: Collection[str]) -> None:
    """UsageError for values that a flag does not take."""
    unknown = [value for value in values if value not in known]
    if unknown:
        raise UsageError(f"--{flag}={','.join(unknown)} is not one of {', '.join(known)}")
