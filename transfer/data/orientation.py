"""Which way up a photograph is: a camera that is held upright may store the picture lying, and say so in its EXIF."""

import struct
from collections.abc import Callable

import numpy as np

HEADER_BYTES = 64 * 1024  # of a file, that are searched
ORIENTATION = 0x0112
SHORT = 3
EXIF = b"Exif\0\0"
PNG_START = b"\x89PNG\r\n\x1a\n"
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


def orientation(data: bytes) -> int:
    """1 to 8, of the beginning of an encoded image; 1 where it does not say."""
    data = data[:HEADER_BYTES]
    tiff = _of_jpeg(data) if data.startswith(b"\xff\xd8") else _of_png(data) if data.startswith(PNG_START) else b""
    try:
        found = _first(tiff)
    except struct.error:  # cut off
        return 1
    return found if found in TURNS else 1


def upright(image: np.ndarray, turned: int) -> np.ndarray:
    """The image (h, w, 3) as it was seen, contiguous; itself where it is upright."""
    return np.ascontiguousarray(TURNS[turned](image)) if turned in TURNS else image


def _of_jpeg(data: bytes) -> bytes:
    """The EXIF of a JPEG: a segment before the first that holds pixels."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1 : at + 2] == b"\xe1" and data[at + 4 : at + 10] == EXIF:
            return data[at + 10 : at + 2 + length]
        at += 2 + max(length, 2)
    return b""


def _of_png(data: bytes) -> bytes:
    """The chunk eXIf before the pixels."""
    at = len(PNG_START)
    while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IDAT":
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"eXIf":
            return data[at + 8 : at + 8 + length].removeprefix(EXIF)
        at += 12 + length
    return b""


def _first(tiff: bytes) -> int:
    """The orientation in the first directory of a TIFF; struct.error where it ends too early."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, start)
    for entry in range(min(count, MOST_ENTRIES)):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * entry)
        if tag == ORIENTATION:
            return value if kind == SHORT else 1
    return 1
