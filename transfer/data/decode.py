"""Encoded image bytes to pixels: Pillow's, byte for byte; a broken image is an error that names it.

Of an animation and of a file of several pages it is the first picture.

JPEGs go through libjpeg-turbo itself where simplejpeg is installed: the library that Pillow decodes them by, without
Pillow's own four bytes a pixel in between, so the same pixels in about two thirds of the time and straight into the
batch. Whatever it has the least doubt about is left to Pillow to decode or to refuse.
"""

import functools
import io
import struct
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import logging
from PIL import Image

from transfer.data import formats
from transfer.data.source import BrokenImage
from transfer.runtime.files.untrusted import printable

JPEG_START = b"\xff\xd8\xff"
# Colour spaces that libjpeg-turbo and Pillow turn into the same RGB.
SAME_COLOURS = ("YCbCr", "RGB", "Gray")
# What keeps decoding in proportion to the file: progressive JPEGs have 10 scans or so, and each goes over all pixels;
# a header ends early; PPMs in text are read number by number, and each comment copies what follows.
MOST_SCANS = 100
# To how many pixels a byte can come: of one bit, packed to a 1,032nd by deflate; of a JPEG a bit for 8x8, and more.
MOST_PIXELS = {"PNG": 8 * 1032, "PPM": 8, "JPEG": 8 * 512, "MPO": 8 * 512}
# Other formats unpack no more, but newer ones take next to no bytes for what is blank: any file may have so many.
MOST_UNPACKED, MOST_BLANK = 8 * 1032, 1 << 24
HEADER_BYTES = 64 * 1024
MOST_TEXT = 32 << 20
MOST_COMMENTS = 100

EXIF_BYTES = 64 * 1024  # of a file, that are searched
ORIENTATION = 0x0112
# TIFF types of whole numbers -> as `struct` names them; SHORT is the one that the standard has for an orientation.
NUMBER_TYPES = {3: "H", 4: "I", 8: "h", 9: "i"}
EXIF = b"Exif\0\0"
MOST_ENTRIES = 512

# EXIF orientation -> from the pixels (h, w, 3) as they are stored to what the camera saw; 1 is upright.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image[::-1].swapaxes(0, 1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: image[:, ::-1].swapaxes(0, 1),
}
# Those that lie: height and width change places.
LYING = (5, 6, 7, 8)
# Formats whose EXIF Pillow finds as it reads the header; TIFF and HEIC are turned as they are decoded.
TURNED_BY_EXIF = ("PNG", "WEBP", "AVIF")
# Values of 16 bits whose upper 8 are all less than this are data of 12 bits or fewer, or darkness.
DARK = 1 << 12 - 8

# A line for each tag of a damaged file, which is read all the same.
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")

# (height, width) -> 1, 2, 4 or 8, by which a JPEG decoder may divide both sides
Divisor = Callable[[int, int], int]


def decode(data: bytes, where: str, out: np.ndarray | None = None, divisor: Divisor | None = None) -> np.ndarray:
    """Decodes an image of a format in `formats` to (h, w, 3) uint8 RGB: grey repeated, alpha dropped, of 16 bits 8.

    Photographs are turned upright as their EXIF says. 16 bits are cut to the upper 8, with a warning for what comes out
    nearly black.

    Args:
        data: the whole file.
        where: names the image in an error.
        out: contiguous uint8 memory of any shape, in whose beginning the image is returned where there is room for it
            and that saves a copy.
        divisor: JPEGs are decoded at 1 / divisor(h, w) of their size, as `PIL.Image.draft` does it.

    Raises:
        BrokenImage: the bytes are truncated, corrupt or no image, or claim more than `PIL.Image.MAX_IMAGE_PIXELS`;
            `out` may hold anything.
    """
    turn = orientation(data)
    lies = turn in LYING
    image = _by_turbo(data, out, divisor, lies)
    return upright(_by_pillow(data, where, divisor, lies) if image is None else image, turn)


def size(data: bytes) -> tuple[int, int, int] | None:
    """The shape (h, w, 3) by the header of an encoded image, which may end anywhere after it; None if it is broken."""
    turn = orientation(data)
    try:
        header = _turbo_header(data)
        if header is None:
            with _by_header(data) as image:
                header, turn = (image.height, image.width), _own_turn(image) or turn
    except MemoryError:
        raise
    except Exception:
        return None
    height, width = header
    return (width, height, 3) if turn in LYING else (height, width, 3)


@functools.cache
def _turbo() -> Any:
    """The simplejpeg module, None where there is no wheel of it for this machine."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def _turbo_header(data: bytes) -> tuple[int, int] | None:
    """The (height, width) of a JPEG that libjpeg-turbo may decode; None for anything else."""
    if not data.startswith(JPEG_START) or _turbo() is None:
        return None
    try:
        height, width, colours, _ = _turbo().decode_jpeg_header(data)
    except (ValueError, KeyError):  # KeyError: colours that simplejpeg has no name for
        return None
    too_large = Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS
    return None if too_large or colours not in SAME_COLOURS or _has_too_many_scans(data) else (height, width)


def _has_too_many_scans(data: bytes) -> bool:
    """Whether a JPEG of several scans has so many that decoding it, which goes over all pixels for each, would hang."""
    at = 2
    while data[at : at + 1] == b"\xff":
        marker, length = data[at + 1 : at + 2], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == b"\xc2" or marker == b"\xca":
            break  # progressive
        if marker == b"\xda":
            if data[at + 4 : at + 5] in (b"\x03", b"\x04"):
                return False  # all colours in one scan
            break
        at += 2 + length
    return data.count(b"\xff\xda") > MOST_SCANS


def _by_turbo(data: bytes, out: np.ndarray | None, divisor: Divisor | None, lies: bool = False) -> np.ndarray | None:
    header = _turbo_header(data)
    if header is None:
        return None
    by = divisor(*header[:: -1 if lies else 1]) if divisor else 1
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


def _by_pillow(data: bytes, where: str, divisor: Divisor | None, lies: bool = False) -> np.ndarray:
    try:
        with _by_header(data) as image:
            pixels, kind = image.width * image.height, image.format
            most = MOST_PIXELS[kind] * len(data) if kind in MOST_PIXELS else max(MOST_UNPACKED * len(data), MOST_BLANK)
            if pixels > most:
                raise ValueError(f"it claims {image.width}x{image.height} pixels in {len(data)} bytes")
            if kind in ("JPEG", "MPO") and divisor:
                by = divisor(*image.size) if lies else divisor(image.height, image.width)
                image.draft(None, (max(image.width // by, 1), max(image.height // by, 1)))
            deep, turn = _has_16_bits(image), _own_turn(image)
            rgb = _ppm(data, image) if kind == "PPM" else upright(_rgb(image), turn)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        reason = printable(str(error).splitlines()[0], 200) if str(error) else type(error).__name__
        if "cannot identify" in reason:
            reason = f"a damaged {formats.of(data)}, or of a kind that Pillow does not read"
        raise BrokenImage(f"{where}: not a readable image ({reason})") from error
    if deep and rgb.max() < DARK:
        logging.log_first_n(
            logging.WARNING,
            "%s: of its 16 bits only the upper 8 are read, and it is nearly black; stretch such images beforehand: "
            "values of 12 bits times 16 (said of the first alone)",
            1,
            where,
        )
    return rgb


def _by_header(data: bytes) -> Any:
    """The image, opened and not decoded yet; ValueError for what would take all memory or time."""
    kind = formats.of(data)
    if kind is None:
        raise ValueError(formats.stranger(data))
    if kind == "HEIF" and not formats.reads_heif():
        raise ValueError(formats.heif_hint())
    if kind == "PPM":  # its header is read byte by byte, comments and all
        Image.open(io.BytesIO(data[:HEADER_BYTES]), formats=(kind,))
    image = Image.open(io.BytesIO(data), formats=(kind,))
    pixels = image.width * image.height
    if Image.MAX_IMAGE_PIXELS is not None and pixels > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"it claims {image.width}x{image.height} pixels, more than {Image.MAX_IMAGE_PIXELS}")
    if image.format in ("JPEG", "MPO") and _has_too_many_scans(data):
        raise ValueError(f"it has more than {MOST_SCANS} scans")
    return image


def _own_turn(image: Any) -> int:
    """The EXIF orientation of an image whose format is not searched for it by hand; 0 for those that are."""
    return _orientation(image.info.get("exif", b"").removeprefix(EXIF)) if image.format in TURNED_BY_EXIF else 0


def _has_16_bits(image: Any) -> bool:
    """Whether an image that is not decoded yet has 16 bits a channel, by how Pillow calls what it stores."""
    if image.mode.startswith("I"):
        return True
    if image.format not in ("PNG", "TIFF") or not image.tile:
        return False
    stored = image.tile[0].args
    return "16" in (stored if isinstance(stored, str) else stored[0])


def _rgb(image: Any) -> np.ndarray:
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ValueError("numbers of 32 bits, or with a sign, whose black and white are not known: save it with 8 bits")
    if image.mode.startswith("I"):
        return _grey(np.asarray(image))
    if image.mode == "P":  # by RGBA, or Pillow warns of transparency that is lost
        return np.array(image.convert("RGBA").convert("RGB"))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _grey(values: np.ndarray) -> np.ndarray:
    """The upper 8 of 16 bits, repeated as RGB."""
    return np.repeat((values >> 8).clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def _ppm(data: bytes, image: Any) -> np.ndarray:
    """The pixels that Pillow gives; its own decoders for odd numbers of levels and for text work value by value."""
    tile = image.tile[0]
    if tile.codec_name == "ppm_plain" and (len(data) > MOST_TEXT or data.count(b"#") > MOST_COMMENTS):
        raise ValueError("a PPM in text, too long to read")
    if tile.codec_name != "ppm":
        return _rgb(image)
    levels = int(tile.args[1])
    kind = np.dtype(">u2" if levels > 255 else "u1")
    count = image.width * image.height * len(image.getbands())
    if len(data) - tile.offset < count * kind.itemsize:
        raise ValueError("image file is truncated")
    values = np.frombuffer(data, kind, count, tile.offset).reshape(image.height, image.width, -1)
    top = 65535 if image.mode == "I" else 255
    scaled = np.minimum(np.rint(np.arange(1 << 8 * kind.itemsize) / levels * top), top).astype(np.uint16)[values]
    if image.mode == "I":
        return _grey(scaled[..., 0])
    return np.broadcast_to(scaled.astype(np.uint8), (image.height, image.width, 3)).copy()


def orientation(data: bytes) -> int:
    """The EXIF orientation, 1 to 8, of a JPEG; 1 where it does not say, or is damaged, and of other formats.

    Read by hand: opening the image by Pillow for it takes ten times as long, several tens of microseconds, and Pillow
    prints a warning for each tag of a damaged EXIF.
    """
    return _orientation(_exif(data[:EXIF_BYTES]))


def _orientation(tiff: bytes) -> int:
    """The orientation in an EXIF, 1 where there is none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    try:
        if order:
            (start,) = struct.unpack_from(order + "I", tiff, 4)
            (entries,) = struct.unpack_from(order + "H", tiff, start)
            for at in range(start + 2, start + 2 + 12 * min(entries, MOST_ENTRIES), 12):
                tag, kind, count = struct.unpack_from(order + "HHI", tiff, at)
                if tag == ORIENTATION and kind in NUMBER_TYPES and count == 1:
                    (value,) = struct.unpack_from(order + NUMBER_TYPES[kind], tiff, at + 8)
                    return value if value in TURNS else 1
    except struct.error:  # cut off
        pass
    return 1


def _exif(data: bytes) -> bytes:
    """The EXIF of a JPEG, a segment before the pixels; empty where there is none."""
    if data.startswith(b"\xff\xd8"):
        at = 2
        while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            if data[at + 1 : at + 2] == b"\xe1" and data[at + 4 : at + 10] == EXIF:
                return data[at + 10 : at + 2 + length]
            at += 2 + max(length, 2)
    return b""


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """The image (h, w, 3) as it was seen, contiguous; itself where it is upright."""
    return np.ascontiguousarray(TURNS[orientation](image)) if orientation in TURNS else image
