"""Pixels to network input: `transfer.preprocess.Preprocessing`."""

from typing import TYPE_CHECKING

from transfer.runtime import lazy

if TYPE_CHECKING:
    from transfer.preprocess.recipe import Preprocessing as Preprocessing

__getattr__, __dir__, __all__ = lazy.attach(__name__, {"Preprocessing": "transfer.preprocess.recipe"})
