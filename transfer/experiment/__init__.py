"""A config becomes `result.json`: `extract`, `train` and `train_on_files`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transfer.experiment.run import extract, train, train_on_files

__all__ = ["extract", "train", "train_on_files"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("transfer.experiment.run"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
