"""A confusion matrix as a small image, for TensorBoard: drawn by Pillow, as Matplotlib need not be installed."""

import contextlib
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from transfer.evaluation.predictions import Predictions

# Pixels of the matrix; of more classes than that, several share one.
SIDE = 640
# Classes up to which names and numbers can be read.
NAMED, NUMBERED = 40, 20
LETTERS = 18
PAPER, INK, DARKEST = (255, 255, 255), (40, 40, 40), (8, 48, 107)


def confusion_matrix(predictions: Predictions) -> Image.Image | None:
    """Actual classes down, predicted ones across, each row as shares of its class; None for labels and values.

    The darker, the larger the share, by its root, so that rare mistakes are seen. Up to 40 classes have their names
    beside them, up to 20 the numbers of rows.
    """
    if predictions.kind != "classes":
        return None
    count, shares = _matrix(predictions)
    size = len(shares)
    cell = max(1, SIDE // size)
    colours = np.asarray(PAPER) + np.sqrt(shares)[..., None] * (np.asarray(DARKEST) - np.asarray(PAPER))
    pixels = np.repeat(np.repeat(colours.round().astype(np.uint8), cell, axis=0), cell, axis=1)
    names = [str(name)[:LETTERS] for name in predictions.class_names or range(predictions.num_outputs)]
    named = size == predictions.num_outputs and size <= NAMED
    left = 12 + (round(_font(12).getlength(max(names, key=len))) + 16 if named else 16)
    made = Image.new("RGB", (left + len(pixels) + 8, len(pixels) + left + 8), PAPER)
    made.paste(Image.fromarray(pixels), (left, left))
    draw = _drawn(made)
    draw.rectangle((left - 1, left - 1, left + len(pixels), left + len(pixels)), outline=INK)
    if named:
        _name(made, names, left, cell)
    if named and size <= NUMBERED:
        _number(draw, count, shares, left, cell)
    _titles(
        made,
        left,
        len(pixels),
        f"({size} blocks of {predictions.num_outputs} classes)" if size < predictions.num_outputs else "",
    )
    return made


def _font(size: int) -> Any:
    with contextlib.suppress(OSError):  # Pillow's own has the letters of ASCII alone
        return ImageFont.truetype("DejaVuSans.ttf", size)
    return ImageFont.load_default(size)


def _matrix(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Rows int (B, B) by actual and predicted class or block of classes, and as shares of each actual one."""
    width = predictions.num_outputs
    blocks = min(width, SIDE)
    block_of = np.arange(width) * blocks // width
    count = np.zeros((blocks, blocks), np.int64)
    np.add.at(count, (block_of[predictions.labels], block_of[predictions.top[:, 0]]), 1)
    return count, count / np.maximum(count.sum(axis=1, keepdims=True), 1)


def _name(made: Image.Image, names: list[str], left: int, cell: int) -> None:
    """Names beside the rows, and, turned by a quarter, above the columns; both end at the matrix."""
    font, room = _font(min(12, max(cell - 2, 6))), left - 20
    for anchor, x, angle, place in (("rm", room - 2, 0, (16, left)), ("lm", 6, 90, (left, 16))):
        strip = _strip(room, len(names) * cell)
        draw = _drawn(strip)
        for number, name in enumerate(names):
            draw.text((x, (number + 0.5) * cell), name, fill=INK, font=font, anchor=anchor)
        made.paste(strip.rotate(angle, expand=True), place)


def _strip(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), PAPER)


def _drawn(image: Image.Image) -> Any:
    return ImageDraw.Draw(image)


def _number(draw: Any, count: np.ndarray, shares: np.ndarray, left: int, cell: int) -> None:
    font = _font(min(13, cell // 2))
    for row, column in zip(*np.nonzero(count), strict=True):
        fill = PAPER if shares[row, column] > 0.25 else INK
        place = (left + (column + 0.5) * cell, left + (row + 0.5) * cell)
        draw.text(place, str(count[row, column]), fill=fill, font=font, anchor="mm")


def _titles(made: Image.Image, left: int, size: int, note: str) -> None:
    for text, angle, place in ((f"predicted {note}", 0, (left, 0)), ("actual", 90, (0, left))):
        strip = _strip(size, 16)
        _drawn(strip).text((size / 2, 8), text.strip(), fill=INK, font=_font(12), anchor="mm")
        made.paste(strip.rotate(angle, expand=True), place)
