"""Which networks, batches and dtypes a benchmark goes through, from what the user typed."""

import fnmatch
from collections.abc import Iterable
from typing import NamedTuple

from transfer.errors import UsageError
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


def cases(models: str, batches: Iterable[int], dtypes: Iterable[str]) -> list[Case]:
    """Every combination, model by model, dtype by dtype; `models` as `matching` takes them."""
    batches, dtypes = list(batches), list(dtypes)
    return [Case(model, batch, dtype) for model in matching(models) for dtype in dtypes for batch in batches]


def matching(models: str) -> list[str]:
    """The names that comma separated names and wildcards stand for, in their order, each once.

    A wildcard with a dot in it goes through the catalogue (`resnet*.tv1`), one without through the architectures
    (`resnet*`): weights do not change the speed, so that it would only say the same thing several times over.

    Raises UsageError for one that stands for nothing.
    """
    found: dict[str, None] = {}
    for text in words("models", models):
        known = catalogue.names() if "." in text else sorted(registry.architectures())
        names = fnmatch.filter(known, text) if WILDCARDS & set(text) else [text]
        if not names or (names == [text] and not _is_known(text)):
            hint = catalogue.meant(text, registry.architectures())
            raise UsageError(f"--models: nothing is called {text!r}{hint}")
        found |= dict.fromkeys(names)
    return list(found)


def _is_known(name: str) -> bool:
    return catalogue.find(name) is not None or name in registry.architectures()


def words(flag: str, text: str) -> list[str]:
    """What commas separate; UsageError if there is nothing, or nothing between two of them."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"--{flag}={text!r} should be one or several, separated by commas")
    return list(dict.fromkeys(parts))


def whole_numbers(flag: str, text: str) -> list[int]:
    """Comma separated whole numbers of at least 1."""
    parts = words(flag, text)
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"--{flag}={text!r} should be whole numbers of at least 1, separated by commas")
    return [int(part) for part in parts]
