"""Pixels to network input: `transfer.preprocess.Preprocessing`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transfer.preprocess.recipe import Preprocessing

__all__ = ["Preprocessing"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("transfer.preprocess.recipe"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
