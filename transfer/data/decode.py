"""Encoded image bytes to pixels: Pillow's, byte for byte; a broken image is an error that names it.

JPEGs go through libjpeg-turbo itself where simplejpeg is installed: the library that Pillow decodes them by, without
Pillow's own four bytes a pixel in between, so the same pixels in about two thirds of the time and straight into the
batch. Whatever it has the least doubt about is left to Pillow to decode or to refuse.
"""

import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from transfer.data.source import BrokenImage

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm")
FORMATS = ("JPEG", "PNG", "PPM")
JPEG_START = b"\xff\xd8\xff"
# What libjpeg-turbo and Pillow make the same RGB of; of the other colour spaces Pillow has its own idea.
SAME_COLOURS = ("YCbCr", "RGB", "Gray")

# (height, width) -> 1, 2, 4 or 8, by which a JPEG decoder may divide both sides
Divisor = Callable[[int, int], int]


def decode(data: bytes, where: str, out: np.ndarray | None = None, divisor: Divisor | None = None) -> np.ndarray:
    """JPEG, PNG or PPM bytes -> (h, w, 3) uint8 RGB: grey repeated, alpha dropped, 16 bits cut to the upper 8.

    Args:
        data: the whole file.
        where: names the image in an error.
        out: contiguous uint8 memory of any shape, in whose beginning the image is returned where there is room for it
            and that saves a copy.
        divisor: JPEGs are decoded at 1 / divisor(h, w) of their size, as `PIL.Image.draft` does it.

    Raises:
        BrokenImage: the bytes are truncated, corrupt or no image; `out` may hold anything.
    """
    image = _by_turbo(data, out, divisor)
    return _by_pillow(data, where, divisor) if image is None else image


def size(data: bytes) -> tuple[int, int, int] | None:
    """(h, w, 3) from the header of an encoded image, which may end anywhere after it; None if it is broken."""
    from PIL import Image

    if header := _turbo_header(data):
        return (header[0], header[1], 3)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return (image.height, image.width, 3)
    except MemoryError:
        raise
    except Exception:
        return None


@functools.cache
def _turbo() -> Any:
    """The simplejpeg module, None where there is no wheel of it for this machine."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def _turbo_header(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG that libjpeg-turbo may decode; None for anything else."""
    from PIL import Image

    if not data.startswith(JPEG_START) or _turbo() is None:
        return None
    try:
        height, width, colours, _ = _turbo().decode_jpeg_header(data)
    except ValueError:
        return None
    too_large = Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS
    return None if too_large or colours not in SAME_COLOURS else (height, width)


def _by_turbo(data: bytes, out: np.ndarray | None, divisor: Divisor | None) -> np.ndarray | None:
    header = _turbo_header(data)
    if header is None:
        return None
    by = divisor(*header) if divisor else 1
    height, width = (-(-side // by) for side in header)
    length = height * width * 3
    if out is None or out.size < length:
        out = np.empty(length, np.uint8)
    buffer = out.reshape(-1)[:length].reshape(height, width, 3)
    try:
        # the smallest of libjpeg's scales that is no smaller than this is this; strict: a warning is an error
        decoded = _turbo().decode_jpeg(data, min_height=height, min_width=width, buffer=buffer, strict=True)
    except ValueError:
        return None
    return buffer if decoded.shape == buffer.shape else None


def _by_pillow(data: bytes, where: str, divisor: Divisor | None) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if divisor and image.format in ("JPEG", "MPO"):
                by = divisor(image.height, image.width)
                image.draft(None, (max(image.width // by, 1), max(image.height // by, 1)))
            if image.mode.startswith("I"):
                grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=-1)
            if image.mode == "P":  # by RGBA, or Pillow warns of transparency that is lost
                return np.array(image.convert("RGBA").convert("RGB"))
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        raise BrokenImage(f"{where}: not a readable image ({_reason(error, data)})") from error


def _reason(error: Exception, data: bytes) -> str:
    if not data:
        return "the file is empty"
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "neither JPEG, PNG nor PPM" if "cannot identify" in text else text
