"""Heads: what is trained on stored features. A head `NAME` is one file, `NAME_probe.py`, found by its name.

The file defines a scikit-learn classifier, `NameProbe` (the name in camel case), and may define a regressor,
`NameRegressor`; `transfer.heads.estimator` is what ours have in common, and theirs need not. If the class has a
`program` with `init_key`, `init_state` and `make_epoch` (see `transfer.heads.linear`), or the file `NAME.py` is one,
then `train.py` trains it epoch by epoch, resumable: `--config.head.name=NAME`. Where the program is a file of its own,
training does without scikit-learn, which takes longer to import than JAX. Other heads are fitted in one go.
"""

import importlib
import importlib.util
import os
import pkgutil
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from transfer.errors import UsageError

_SUFFIX = "_probe"

__all__ = ["HEADS", "find_program", "load", "program", "regressor"]


class _Heads(Mapping[str, type]):
    """Name -> estimator class: `NAME_probe.py` defines `NameProbe`. A file is imported when its head is asked for."""

    def __getitem__(self, name: str) -> type:
        return getattr(_module(name), camel(name) + "Probe")

    def __iter__(self) -> Iterator[str]:
        files = (module.name for module in pkgutil.iter_modules(__path__))
        return (file.removesuffix(_SUFFIX) for file in files if file.endswith(_SUFFIX))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in list(self)


HEADS: Mapping[str, type] = _Heads()


def camel(name: str) -> str:
    """`nearest_mean` -> `NearestMean`."""
    return "".join(word.capitalize() for word in name.split("_"))


def _module(name: str) -> ModuleType:
    if name not in HEADS:
        raise UsageError(f"unknown head {name!r}; there is: {', '.join(HEADS)}")
    return importlib.import_module(f"{__name__}.{name}{_SUFFIX}")


def regressor(name: str) -> type:
    """The regressor of a head's file, `NameRegressor`; UsageError for an unknown head and for one that has none."""
    found = getattr(_module(name), f"{camel(name)}Regressor", None)
    if found is None:
        raise UsageError(f"head {name!r} is a classifier and learns no values")
    return found


def find_program(name: str) -> Any:
    """What `train.py` drives epoch by epoch, or None for a head that is fitted in one go; UsageError if unknown."""
    if name in HEADS and importlib.util.find_spec(f"{__name__}.{name}"):
        module = importlib.import_module(f"{__name__}.{name}")
        if hasattr(module, "make_epoch"):
            return module
    return getattr(HEADS[name], "program", None)


def program(name: str) -> Any:
    """What `train.py` drives epoch by epoch; UsageError for an unknown head and for one that has no program."""
    found = find_program(name)
    if found is None:
        raise UsageError(f"config.head.name={name!r} has no program for train.py; use transfer.heads.HEADS[{name!r}]")
    return found


def load(path: str | os.PathLike) -> Any:
    """The head that `save` wrote; see `transfer.heads.saving.load`."""
    from transfer.heads.saving import load as read

    return read(path)


def __getattr__(name: str) -> type:
    """`transfer.heads.LinearProbe`, `RidgeRegressor` …, without importing scikit-learn before it is needed."""
    for ending in ("Probe", "Regressor"):
        for head in HEADS if name.endswith(ending) else ():
            if name == camel(head) + ending and hasattr(_module(head), name):
                return getattr(_module(head), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
