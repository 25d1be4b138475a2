"""Zip and tar archives from anybody: read in memory, never unpacked onto the disk, and to a limited size.

Arrays in a zip (`.npz`) are of numbers and text alone, and their headers may lie.
"""

import bz2
import errno
import gzip
import io
import lzma
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import IO, Any, BinaryIO

import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files import tars
from transfer.runtime.files.untrusted import (
    DAMAGE_ERRORS,
    LimitedReader,
    decompression_limit,
    error_summary,
    prefix_errors,
    printable,
    remaining_size,
)

# What `zipfile`, and what unpacks tars, raise for damaged and hostile files.
DAMAGE = (*DAMAGE_ERRORS, zipfile.BadZipFile, lzma.LZMAError, zlib.error, RuntimeError, OSError)
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 1
ARRAY_SUFFIX, ARRAY_START = ".npy", b"\x93NUMPY"
# Booleans, integers, floats, complex numbers, bytes and text; no objects, records, dates.
ARRAY_KINDS = "biufcSU"
ARRAY_HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# NumPy takes no longer header, but makes room for whatever one claims.
MOST_HEADER = 1 << 17
# How a packed tar begins -> what unpacks it.
PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


class Archive:
    """A zip opened for reading, all of whose members together unpack to no more than `decompression_limit` of its size.

    What is wrong with it is a TransferError that does not name the file.
    """

    def __init__(self, file: Any, size: int) -> None:
        self._zip, self._size, self._left = zipfile.ZipFile(file), size, decompression_limit(size)
        self.members = {member.filename: member for member in self._zip.infolist()}

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def size(self, name: str) -> int:
        """How many bytes the member `name` says that it unpacks to."""
        return self._member(name).file_size

    def read(self, name: str) -> bytes:
        """The member `name`, its checksum verified; TransferError where there is none, or for a bomb."""
        with self.open(name) as stream:
            return stream.read()

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """The member `name` as a stream; the checksum is verified at its end."""
        member = self._member(name)
        check_member(member, self._size)
        self._left -= member.file_size
        if self._left < 0:
            raise TransferError(f"refused: its members unpack to more than {decompression_limit(self._size)} bytes")
        with self._zip.open(member) as stream:
            yield stream

    def _member(self, name: str) -> zipfile.ZipInfo:
        if name not in self.members:
            raise TransferError(f"it has no member {printable(name)!r}")
        return self.members[name]

    def array_names(self) -> list[str]:
        """The names of the arrays in an `.npz`, without `.npy`."""
        return [name.removesuffix(ARRAY_SUFFIX) for name in self.members if name.endswith(ARRAY_SUFFIX)]

    def array(self, name: str) -> np.ndarray:
        """The array `name`, writable; TransferError, naming it, for objects and for what is not as it says."""
        with prefix_errors(f"array {printable(name)!r}"):
            with self.open(name + ARRAY_SUFFIX) as stream:
                _check_array(stream, self.size(name + ARRAY_SUFFIX))
            with self.open(name + ARRAY_SUFFIX) as stream:
                return np.lib.format.read_array(stream, allow_pickle=False)

    def close(self) -> None:
        """Closes the zip, not the file that it was opened from."""
        self._zip.close()


def check_member(member: zipfile.ZipInfo, size: int) -> None:
    """Raises TransferError for a member of a zip of `size` bytes that cannot be as it says, or is a bomb."""
    name = printable(member.filename)
    if member.flag_bits & ENCRYPTED or member.compress_type not in METHODS:
        raise TransferError(f"{name} is encrypted, or packed by a method other than deflate")
    if not 0 <= member.compress_size <= size:
        raise TransferError(f"{name} is said to take {member.compress_size} bytes in a file of {size}")
    if member.compress_type == zipfile.ZIP_STORED and member.file_size != member.compress_size:
        raise TransferError(f"{name} is said to have {member.file_size} bytes, stored as {member.compress_size}")
    if member.file_size > decompression_limit(member.compress_size):
        raise TransferError(f"refused: {name} unpacks from {member.compress_size} bytes to {member.file_size}")


def plain_array(stream: Any, size: int) -> np.ndarray:
    """The array in a seekable `.npy` of `size` bytes; TransferError as `Archive.array` raises it."""
    _check_array(stream, size)
    stream.seek(0)
    return np.lib.format.read_array(stream, allow_pickle=False)


def _check_array(stream: IO[bytes], size: int) -> None:
    """Raises TransferError unless `size` bytes are a header and just the numbers that it describes."""
    start = io.BytesIO(stream.read(MOST_HEADER))
    try:
        shape, _, dtype = ARRAY_HEADERS[np.lib.format.read_magic(start)](start)
        if not all(isinstance(side, int) and side >= 0 for side in shape) or len(shape) > 64:
            raise ValueError("no shape")
    except Exception as error:  # Python's parser and tokenizer raise what they like
        raise TransferError(f"not an array, or a damaged one ({error_summary(error)})") from error
    if dtype.hasobject:
        raise TransferError("Object arrays are not read, only arrays of numbers and text")
    if dtype.kind not in ARRAY_KINDS or not dtype.itemsize:
        raise TransferError(f"arrays of {printable(str(dtype))} are not read, only arrays of numbers and text")
    left = size - start.tell()
    if math.prod(shape) * dtype.itemsize != left:
        raise TransferError(f"shape {shape} of {dtype} is claimed, and {left} bytes are there")


@contextmanager
def _damage_reported_as(message: str) -> Iterator[None]:
    """Turns what a parser raises for a damaged file into a TransferError; OSError stays where it cannot be read."""
    try:
        yield
    except DAMAGE as error:
        # unpackers have errors without a number; EINVAL is a jump to where no byte can be
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise TransferError(f"{message} ({error_summary(error)})") from error


@contextmanager
def open_zip(file: BinaryIO) -> Iterator[Archive]:
    """The zip in a seekable stream; whatever is wrong with it, found now or while it is read, is a TransferError.

    OSError stays what it is where the file cannot be read.
    """
    with _damage_reported_as("a damaged or truncated zip archive"):
        file.seek(0)
        with closing(Archive(file, remaining_size(file))) as archive:
            yield archive


@contextmanager
def open_tar(path: str) -> Iterator[Iterator[tuple[str, LimitedReader]]]:
    """(name, bytes) of the regular files in the tar at `path`, in order; the bytes are to be read before the next.

    What is wrong with the tar, found now or as the bytes are read, is a TransferError without the path; OSError stays
    what it is where the file cannot be read.
    """
    with open(path, "rb") as file:
        size, head = remaining_size(file), file.read(8)
        file.seek(0)
        unpack = next((each for magic, each in PACKED.items() if head.startswith(magic)), None)
        stream = unpack(file, "rb") if unpack else file
        with _damage_reported_as("not a readable tar archive"):
            files = tars.members(stream, decompression_limit(size) if unpack else size, bool(unpack))
            yield ((os.fsdecode(name), LimitedReader(stream, length)) for name, _, length in files)
