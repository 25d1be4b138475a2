"""Arrays of numbers in MATLAB's files of version 5, from anybody; SciPy's reader dies of damaged ones.

A file is a header and elements, one for each variable, most of them packed. That of an array has parts: its class, its
sides, its name, and its numbers in whichever type takes the least room.
"""

import math
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import DAMAGE_ERRORS, decompression_limit, error_summary, printable

HEADER, ORDERS = 128, {b"IM": "<", b"MI": ">"}
MATRIX, PACKED = 14, 15
COMPLEX = 1 << 11
NAME_BYTES = 4096  # of an element, in which its name is found
# What numbers are stored as, and what class of MATLAB's they are.
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
DAMAGE = (*DAMAGE_ERRORS, zlib.error)


class MatFile:
    """The arrays of a MATLAB file; TransferError, which does not name the file, where it is damaged.

    Attributes:
      places: name of an array -> the kind of its element, where that begins and how long it is.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.size = stream, os.fstat(stream.fileno()).st_size
        try:
            stream.seek(0)
            self.order = ORDERS[stream.read(HEADER)[126:]]
            self.places = dict(self._places())
        except DAMAGE as error:
            raise TransferError(f"not a MATLAB file, or a damaged one ({error_summary(error)})") from error

    def array(self, name: str) -> np.ndarray:
        """The array of that name."""
        try:
            parts = list(self._parts(self._content(self.places[name], decompression_limit(self.size))))
            (flags, sides, _, (kind, numbers)) = parts[:4]
            shape = np.frombuffer(sides[1], self.order + "i4").tolist()
            array = np.frombuffer(numbers, self.order + STORED[kind])
            if min(shape) < 0 or math.prod(shape) != array.size:
                raise ValueError(f"{array.size} numbers are not of shape {shape}")
            code = struct.unpack_from(self.order + "I", flags[1])[0] & 0xFF
            return array.reshape(shape, order="F").astype(CLASSES[code], copy=False)
        except DAMAGE as error:
            raise TransferError(f"array {printable(name)!r} is damaged ({error_summary(error)})") from error

    def _places(self) -> Iterator[tuple[str, tuple[int, int, int]]]:
        at = HEADER
        while at < self.size:
            self.stream.seek(at)
            kind, length = struct.unpack(self.order + "II", self.stream.read(8))
            place, at = (kind, at + 8, length), at + 8 + length
            if at > self.size:
                raise ValueError("it ends early")
            parts = list(self._parts(self._content(place, NAME_BYTES))) if kind in (MATRIX, PACKED) else []
            if len(parts) > 2:
                (code,) = struct.unpack_from(self.order + "I", parts[0][1])
                if code & 0xFF in CLASSES and not code & COMPLEX:
                    yield bytes(parts[2][1]).decode("latin1"), place

    def _content(self, place: tuple[int, int, int], most: int) -> memoryview:
        """The parts of an array as bytes, unpacked, or the first `most` of them."""
        kind, start, length = place
        self.stream.seek(start)
        content = self.stream.read(min(length, most))
        if kind == PACKED:
            content = zlib.decompressobj().decompress(content, most)[8:]  # in which an element lies
        return memoryview(content)

    def _parts(self, content: memoryview) -> Iterator[tuple[int, memoryview]]:
        """The type and the bytes of each part; those of four bytes and fewer stand in the part's head."""
        at = 0
        while at + 8 <= len(content):
            kind, length = struct.unpack_from(self.order + "II", content, at)
            if kind >> 16:
                kind, length, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            else:
                start, end = at + 8, at + 8 + -(-length // 8) * 8
            yield kind, content[start : start + length]
            at = end
