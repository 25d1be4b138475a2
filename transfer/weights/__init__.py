"""Pretrained weights: a catalogue, readers for every file format, name maps, a verified cache."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transfer.weights.create import create_model, list_models

__all__ = ["create_model", "list_models"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("transfer.weights.create"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
