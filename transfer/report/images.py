"""The images of a run, found by their ids where the data set still lies where it was, small, as the page holds them.

One by one where they are looked at, in one sheet where there are thousands.
"""

import base64
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from transfer.data.source import BrokenImage, Source
from transfer.data.splits import make_splits
from transfer.errors import TransferError

# Around an image that is no square.
PAPER = 236
THREADS = 4
# What a JPEG's decoder can divide the sides of an image by.
DIVISORS = (8, 4, 2)
QUALITY = 84
# A sheet's tiles are of whole blocks of JPEG, and its colours are not halved, so that none bleeds into the next.
BLOCK = 8


class Images:
    """Thumbnails of the validation images of a run's data set.

    `note` is told, once, why there are none.
    """

    def __init__(self, data_config: dict[str, Any] | None, note: Callable[[str], None]) -> None:
        self._config, self._note = data_config, note

    @cached_property
    def _source(self) -> Source | None:
        if not self._config:
            self._note("No images are shown: the run was given features from files, and does not know their images.")
            return None
        try:
            return make_splits(self._config, "skip")[1]
        except (TransferError, OSError, AttributeError, TypeError, ValueError) as error:
            why = " ".join(str(error).split())[:200] or type(error).__name__
            self._note(f"No images are shown: the data set {self._config.get('source')} cannot be read ({why}).")
            return None

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {} if self._source is None else {id_: row for row, id_ in enumerate(self._source.ids)}

    def get(self, ids: Sequence[str], side: int) -> list[np.ndarray | None]:
        """The images of those ids, (side, side, 3) uint8 each, whole and centred; None for one that is gone."""
        source, rows = self._source, self._rows
        if source is None:
            return [None] * len(ids)
        missing = sum(id_ not in rows for id_ in ids)
        if missing:
            self._note(f"{missing} of the validation images are not in {source.name} any more.")
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(lambda id_: _thumbnail(source, rows[id_], side) if id_ in rows else None, ids))


def _thumbnail(source: Source, row: int, side: int) -> np.ndarray | None:
    """Image `row`, (side, side, 3) uint8, as large as fits, on grey; None where it is broken."""

    def divisor(height: int, width: int) -> int:
        return next((by for by in DIVISORS if max(height, width) >= 2 * side * by), 1)

    try:
        pixels = source.image_into(row, None, divisor)
    except (BrokenImage, OSError):
        return None
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # what is smaller is enlarged pixel by pixel, so that a reader sees what the network was given
    how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    small = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size, how))
    made = np.full((side, side, 3), PAPER, np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    made[top : top + size[1], left : left + size[0]] = small
    return made


class Sheet(NamedTuple):
    """Square tiles in rows of `columns`, in order, `side` pixels wide and high each; `address` is a data: URL."""

    address: str
    side: int
    columns: int


def sheet(images: Sequence[np.ndarray | None], side: int) -> Sheet | None:
    """All images, uint8 (side, side, 3) each, in one; `side` a multiple of 8. None where there is no image at all."""
    if side % BLOCK:
        raise ValueError(f"tiles of {side} pixels would bleed into each other; multiples of {BLOCK} do not")
    if all(image is None for image in images):
        return None
    columns = max(1, round(len(images) ** 0.5))
    return Sheet(_data_url(tiled(images, side, columns), "JPEG", quality=QUALITY, subsampling=0), side, columns)


def tiled(images: Sequence[np.ndarray | None], side: int, columns: int) -> np.ndarray:
    """Images, uint8 (side, side, 3) each, beside each other, `columns` in a row; grey where there is none."""
    canvas = np.full((-(-len(images) // columns) * side, columns * side, 3), 128, np.uint8)
    for place, image in enumerate(images):
        if image is not None:
            top, left = place // columns * side, place % columns * side
            canvas[top : top + side, left : left + side] = image
    return canvas


def address(image: np.ndarray | None) -> str | None:
    """The data: URL of uint8 (h, w, 3), as PNG or JPEG, whichever is smaller; None of None."""
    if image is None:
        return None
    return min(_data_url(image, "JPEG", quality=QUALITY), _data_url(image, "PNG", compress_level=3), key=len)


def _data_url(image: np.ndarray, kind: str, **settings: int) -> str:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(stream, kind, **settings)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
