"""Heads: what is trained on stored features. A head `NAME` is one file, `NAME_probe.py`, found by its name.

The file defines a scikit-learn classifier, `NameProbe` (the name in camel case), and may define a regressor,
`NameRegressor`; `transfer.heads.estimator` has the bases of ours, which a user's need not have. If the class has a
`program` (`transfer.heads.programs`), then `train.py --config.head.name=NAME` trains it epoch by epoch, resumable;
other heads are fitted in one go. Our programs are `transfer.heads.linear`, `.sgd` and `.mlp`, found without
scikit-learn, which takes longer to import than JAX.
"""

import importlib
import os
import pkgutil
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from transfer.errors import UsageError

__all__ = ["HEADS", "find_program", "load", "program", "regressor"]

_SUFFIX = "_probe"


class _Heads(Mapping[str, type]):
    """Name -> estimator class: `NAME_probe.py` defines `NameProbe`. A file is imported when its head is asked for."""

    def __getitem__(self, name: str) -> type:
        return getattr(module_of(name), camel(name) + "Probe")

    def __iter__(self) -> Iterator[str]:
        files = (module.name for module in pkgutil.iter_modules(__path__) if module.name.endswith(_SUFFIX))
        return (file.removesuffix(_SUFFIX) for file in files)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in list(iter(self))


HEADS: Mapping[str, type] = _Heads()


def camel(name: str) -> str:
    """`nearest_mean` -> `NearestMean`."""
    return "".join(word.capitalize() for word in name.split("_"))


def module_of(name: str) -> ModuleType:
    """The file of a head, `NAME_probe.py`; UsageError, listing the heads there are, for an unknown name."""
    if name not in HEADS:
        raise UsageError(f"unknown head {name!r}; there is: {', '.join(HEADS)}")
    return importlib.import_module(f"{__name__}.{name}{_SUFFIX}")


def regressor(name: str) -> type:
    """The regressor of a head's file, `NameRegressor`; UsageError for an unknown head and for one that has none."""
    if not hasattr(module_of(name), f"{camel(name)}Regressor"):
        raise UsageError(f"head {name!r} is a classifier and learns no values")
    return getattr(module_of(name), f"{camel(name)}Regressor")


def find_program(name: str) -> Any:
    """The `transfer.heads.programs.Program` that `train.py` drives epoch by epoch; UsageError if there is no such head.

    None for a head that is fitted in one go. That of a user's head is the attribute `program` of its estimator.
    """
    own = importlib.import_module(f"{__name__}.programs").PROGRAMS
    return own[name] if name in own else getattr(HEADS[name], "program", None)


def program(name: str) -> Any:
    """The program that `train.py` drives; UsageError for an unknown head and for one that has no program."""
    if (driven := find_program(name)) is None:
        raise UsageError(f"config.head.name={name!r} has no program for train.py; use transfer.heads.HEADS[{name!r}]")
    return driven


def load(path: str | os.PathLike) -> Any:
    """The head that `save` wrote; see `transfer.heads.saving.load`."""
    return importlib.import_module(f"{__name__}.saving").load(path)


def __getattr__(name: str) -> Any:
    """`transfer.heads.LinearProbe`, `RidgeRegressor` …, and the programs, without importing more than is needed."""
    if name in ("linear", "sgd", "mlp"):
        return find_program(name)
    for ending in ("Probe", "Regressor"):
        for head in HEADS if name.endswith(ending) else ():
            if name == camel(head) + ending and hasattr(module_of(head), name):
                return getattr(module_of(head), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
