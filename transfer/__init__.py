"""Frozen, pretrained backbones in Flax turn images into cached features; Optax trains heads on them in seconds."""

from typing import TYPE_CHECKING

from transfer.runtime import distribution, lazy

if TYPE_CHECKING:
    from transfer.evaluation.selection import sweep as sweep
    from transfer.export.predictor import Predictor as Predictor
    from transfer.extract import Extractor as Extractor
    from transfer.heads import LinearProbe as LinearProbe
    from transfer.store.store import FeatureStore as FeatureStore
    from transfer.weights import create_model as create_model
    from transfer.weights import list_models as list_models

__version__ = distribution.VERSION
__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "Extractor": "transfer.extract",
        "FeatureStore": "transfer.store.store",
        "LinearProbe": "transfer.heads",
        "Predictor": "transfer.export.predictor",
        "create_model": "transfer.weights",
        "list_models": "transfer.weights",
        "sweep": "transfer.evaluation.selection",
    },
)
