"""Encoded image bytes to pixels, by Pillow; a broken image is an error that names it."""

import io

import numpy as np

from transfer.data.source import BrokenImage

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm")


def decode(data: bytes, where: str) -> np.ndarray:
    """JPEG, PNG or PPM bytes -> (h, w, 3) uint8 RGB: grey repeated, alpha dropped, 16 bits cut to the upper 8.

    Raises BrokenImage naming `where` if the bytes are truncated, corrupt or no image.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "PPM")) as image:
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


def size(data: bytes) -> tuple[int, int, int] | None:
    """(h, w, 3) from the header of an encoded image, which may end anywhere after it; None if it is broken."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "PPM")) as image:
            return (image.height, image.width, 3)
    except MemoryError:
        raise
    except Exception:
        return None


def _reason(error: Exception, data: bytes) -> str:
    if not data:
        return "the file is empty"
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "neither JPEG, PNG nor PPM" if "cannot identify" in text else text
