"""Images to features: `Extractor` for arrays, `extract_to_store` for data sets."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transfer.extract.extractor import Extractor
    from transfer.extract.to_store import extract_to_store

__all__ = ["Extractor", "extract_to_store"]

_HOMES = {"Extractor": "transfer.extract.extractor", "extract_to_store": "transfer.extract.to_store"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
