"""Which way up a photograph is: a camera that is held upright may store the picture lying, and say so in its EXIF.

Read by hand: opening the image by Pillow for it takes ten times as long, several tens of microseconds, and Pillow
prints a warning for each tag of a damaged EXIF.
"""

import struct
from collections.abc import Callable

import numpy as np

HEADER_BYTES = 64 * 1024  # of a file, that are searched
ORIENTATION = 0x0112
# TIFF types of whole numbers -> as `struct` names them; SHORT is the one that the standard has for an orientation.
NUMBER_TYPES = {3: "H", 4: "I", 8: "h", 9: "i"}
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
    """The EXIF orientation, 1 to 8, of an encoded image; 1 where it does not say, or where its EXIF is damaged."""
    tiff = _exif(data[:HEADER_BYTES])
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
    """The EXIF before the pixels: a segment of a JPEG, the chunk eXIf of a PNG; empty where there is none."""
    if data.startswith(b"\xff\xd8"):
        at = 2
        while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
            length = int.from_bytes(data[at + 2 : at + 4], "big")
            if data[at + 1 : at + 2] == b"\xe1" and data[at + 4 : at + 10] == EXIF:
                return data[at + 10 : at + 2 + length]
            at += 2 + max(length, 2)
    elif data.startswith(PNG_START):
        at = len(PNG_START)
        while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IDAT":
            length = int.from_bytes(data[at : at + 4], "big")
            if data[at + 4 : at + 8] == b"eXIf":
                return data[at + 8 : at + 8 + length].removeprefix(EXIF)
            at += 12 + length
    return b""


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """The image (h, w, 3) as it was seen, contiguous; itself where it is upright."""
    return np.ascontiguousarray(TURNS[orientation](image)) if orientation in TURNS else image
