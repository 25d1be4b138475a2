"""Small pictures inside the page: one by one where they are read, in one sheet where there are thousands."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

QUALITY = 84
# A sheet's tiles are of whole blocks of JPEG, and its colours are not halved, so that none bleeds into the next.
BLOCK = 8


class Sheet(NamedTuple):
    """Square tiles in rows of `columns`, in order, `side` pixels wide and high each; `address` is a data: URL."""

    address: str
    side: int
    columns: int


def address(image: np.ndarray | None) -> str | None:
    """The data: URL of uint8 (h, w, 3), as PNG or JPEG, whichever is smaller; None of None."""
    if image is None:
        return None
    return min(_written(image, "JPEG", quality=QUALITY), _written(image, "PNG", compress_level=3), key=len)


def sheet(images: Sequence[np.ndarray | None], side: int) -> Sheet | None:
    """All images, uint8 (side, side, 3) each, in one; `side` a multiple of 8. None where there is no image at all."""
    if side % BLOCK:
        raise ValueError(f"tiles of {side} pixels would bleed into each other; multiples of {BLOCK} do not")
    if all(image is None for image in images):
        return None
    columns = max(1, round(len(images) ** 0.5))
    return Sheet(_written(tiled(images, side, columns), "JPEG", quality=QUALITY, subsampling=0), side, columns)


def tiled(images: Sequence[np.ndarray | None], side: int, columns: int) -> np.ndarray:
    """Images, uint8 (side, side, 3) each, beside each other, `columns` in a row; grey where there is none."""
    lines = -(-len(images) // columns)
    canvas = np.full((lines * side, columns * side, 3), 128, np.uint8)
    for place, image in enumerate(images):
        if image is not None:
            top, left = place // columns * side, place % columns * side
            canvas[top : top + side, left : left + side] = image
    return canvas


def _written(image: np.ndarray, kind: str, **settings: int) -> str:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(stream, kind, **settings)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
