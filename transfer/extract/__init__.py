"""Images to features: `Extractor` for arrays, `extract_to_store` for data sets."""

from typing import TYPE_CHECKING

from transfer.runtime import lazy

if TYPE_CHECKING:
    from transfer.extract.extractor import Extractor as Extractor
    from transfer.extract.to_store import extract_to_store as extract_to_store

__getattr__, __dir__, __all__ = lazy.attach(
    __name__, {"Extractor": "transfer.extract.extractor", "extract_to_store": "transfer.extract.to_store"}
)
