"""Heads: classifiers trained on stored features. A head `NAME` is one file, `NAME_probe.py`, found by its name.

The file defines `NameProbe`, a scikit-learn estimator. If that has a `program` with `init_key`, `init_state` and
`make_epoch` (see `transfer.heads.linear`), then `train.py` trains it too: `--config.head.name=NAME`.
"""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping

from transfer.errors import UsageError

_SUFFIX = "_probe"

__all__ = ["HEADS"]


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


def __getattr__(name: str) -> type:
    """`transfer.heads.LinearProbe` and the like, without importing scikit-learn before it is needed."""
    for head in HEADS if name.endswith("Probe") else ():
        if name == "".join(word.capitalize() for word in head.split("_")) + "Probe":
            return HEADS[head]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
