"""Frozen, pretrained backbones in Flax turn images into cached features; Optax trains heads on them in seconds."""

import importlib
from typing import TYPE_CHECKING, Any

from transfer.runtime import distribution

if TYPE_CHECKING:
    from transfer.evaluation.selection import sweep
    from transfer.export.predictor import Predictor
    from transfer.extract import Extractor
    from transfer.heads import LinearProbe
    from transfer.store.store import FeatureStore
    from transfer.weights import create_model, list_models

__version__ = distribution.VERSION
__all__ = ["Extractor", "FeatureStore", "LinearProbe", "Predictor", "create_model", "list_models", "sweep"]

# Public name -> the module that holds it, imported at first use: `import transfer` costs nothing.
_HOMES = {
    "Extractor": "transfer.extract",
    "FeatureStore": "transfer.store.store",
    "LinearProbe": "transfer.heads",
    "Predictor": "transfer.export.predictor",
    "create_model": "transfer.weights",
    "list_models": "transfer.weights",
    "sweep": "transfer.evaluation.selection",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'transfer' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
