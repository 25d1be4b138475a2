"""Every head by its name: the estimator of its file, `NAME_probe.py`, and its program for `train.py`."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from transfer.errors import UsageError

PACKAGE = "transfer.heads"
_SUFFIX = "_probe"


class _Heads(Mapping[str, type]):
    """Name -> estimator class: `NAME_probe.py` defines `NameProbe`. A file is imported when its head is asked for."""

    def __getitem__(self, name: str) -> type:
        return getattr(module_of(name), camel(name) + "Probe")

    def __iter__(self) -> Iterator[str]:
        files = (module.name for module in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__))
        return (file.removesuffix(_SUFFIX) for file in files if file.endswith(_SUFFIX))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in list(self)


HEADS: Mapping[str, type] = _Heads()


def camel(name: str) -> str:
    """`nearest_mean` -> `NearestMean`."""
    return "".join(word.capitalize() for word in name.split("_"))


def module_of(name: str) -> ModuleType:
    """The file of a head, `NAME_probe.py`; UsageError, listing the heads there are, for an unknown name."""
    if name not in HEADS:
        raise UsageError(f"unknown head {name!r}; there is: {', '.join(HEADS)}")
    return importlib.import_module(f"{PACKAGE}.{name}{_SUFFIX}")


def regressor(name: str) -> type:
    """The regressor of a head's file, `NameRegressor`; UsageError for an unknown head and for one that has none."""
    found = getattr(module_of(name), f"{camel(name)}Regressor", None)
    if found is None:
        raise UsageError(f"head {name!r} is a classifier and learns no values")
    return found


def find_program(name: str) -> Any:
    """The `transfer.heads.programs.Program` that `train.py` drives epoch by epoch; UsageError if there is no such head.

    None for a head that is fitted in one go. That of a head of ours is found without scikit-learn, which takes longer
    to import than JAX; that of a user's is the attribute `program` of its estimator.
    """
    own = importlib.import_module(f"{PACKAGE}.programs").PROGRAMS
    return own[name] if name in own else getattr(HEADS[name], "program", None)


def program(name: str) -> Any:
    """The program that `train.py` drives; UsageError for an unknown head and for one that has no program."""
    found = find_program(name)
    if found is None:
        raise UsageError(f"config.head.name={name!r} has no program for train.py; use transfer.heads.HEADS[{name!r}]")
    return found
