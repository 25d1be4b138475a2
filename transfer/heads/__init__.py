"""Heads: classifiers trained on stored features. A head `NAME` is one file, `NAME_probe.py`, found by its name.

The file defines `NameProbe`, a scikit-learn estimator. If that has a `program` with `init_key`, `init_state` and
`make_epoch` (see `transfer.heads.linear`), then `train.py` trains it too: `--config.head.name=NAME`. Where the
program is a file of its own, `NAME.py`, training does without scikit-learn, which takes longer to import than JAX.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterator, Mapping
from typing import Any

from transfer.errors import UsageError

_SUFFIX = "_probe"

__all__ = ["HEADS", "program"]


class _Heads(Mapping[str, type]):
    """Name -> estimator class: `NAME_probe.py` defines `NameProbe`. A file is imported when its head is asked for."""

    def __getitem__(self, name: str) -> type:
        if name not in set(self):
            raise UsageError(f"unknown head {name!r}; there is: {', '.join(self)}")
        module = importlib.import_module(f"{__name__}.{name}{_SUFFIX}")
        return getattr(module, "".join(word.capitalize() for word in name.split("_")) + "Probe")

    def __iter__(self) -> Iterator[str]:
        files = (module.name for module in pkgutil.iter_modules(__path__))
        return (file.removesuffix(_SUFFIX) for file in files if file.endswith(_SUFFIX))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in list(self)


HEADS: Mapping[str, type] = _Heads()


def program(name: str) -> Any:
    """What `train.py` drives epoch by epoch; UsageError for an unknown head and for one that has no program."""
    if name in HEADS and importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    found = getattr(HEADS[name], "program", None)
    if found is None:
        raise UsageError(f"config.head.name={name!r} has no program for train.py; use transfer.heads.HEADS[{name!r}]")
    return found


def __getattr__(name: str) -> type:
    """`transfer.heads.LinearProbe` and the like, without importing scikit-learn before it is needed."""
    for head in HEADS if name.endswith("Probe") else ():
        if name == "".join(word.capitalize() for word in head.split("_")) + "Probe":
            return HEADS[head]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
