"""Pretrained weights: a catalogue, readers for every file format, name maps, a verified cache."""

from typing import TYPE_CHECKING

from transfer.runtime import lazy

if TYPE_CHECKING:
    from transfer.weights.create import create_model as create_model
    from transfer.weights.create import list_models as list_models

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "create_model": "transfer.weights.create",
        "list_models": "transfer.weights.create",
    },
)
