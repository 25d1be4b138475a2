"""Tar archives from anybody, packed or not: read in one pass, never onto the disk, and to a limited size.

Of the format only regular files under short names are read; links, devices, files with holes and the headers that
extend others are passed over. `tarfile` itself parses those, with recursion and with patterns that take forever.
"""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import (
    LimitedReader,
    damage_reported_as,
    decompression_limit,
    printable,
    remaining_size,
)

# What `tarfile` and what unpacks it raise for damaged and hostile files.
DAMAGE_ERRORS = (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, MemoryError, ValueError)
# How a packed file begins -> what unpacks it.
PACKED: tuple[tuple[bytes, Any], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
)
BLOCK = tarfile.BLOCKSIZE
AT_ONCE = 1 << 20
MAX_MEMBERS = 10_000


@contextmanager
def open_tar(path: str) -> Iterator[Iterator[tuple[str, LimitedReader]]]:
    """(name, bytes) of the regular files in the tar at `path`, in order; the bytes are to be read before the next.

    What is wrong with the tar, found now or as the bytes are read, is a TransferError without the path; OSError stays
    what it is where the file cannot be read.
    """
    with open(path, "rb") as file:
        limit = decompression_limit(remaining_size(file))
        head = file.read(8)
        file.seek(0)
        unpack = next((each for magic, each in PACKED if head.startswith(magic)), None)
        stream: Any = unpack(file, "rb") if unpack else file
        with damage_reported_as("not a readable tar archive", DAMAGE_ERRORS):
            yield _files(LimitedReader(stream, limit))


def _files(stream: LimitedReader) -> Iterator[tuple[str, LimitedReader]]:
    for _ in range(MAX_MEMBERS):
        try:
            member = tarfile.TarInfo.frombuf(stream.read(BLOCK), tarfile.ENCODING, "surrogateescape")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            return
        padded = -(-member.size // BLOCK) * BLOCK
        if not 0 <= padded <= stream.bytes_left:
            name = printable(member.name)
            raise TransferError(f"refused: {name} is said to have {member.size} bytes, more than there can be")
        end = stream.bytes_left - padded
        if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
            yield member.name, LimitedReader(stream, member.size)
        while (rest := stream.bytes_left - end) > 0:
            stream.read(min(rest, AT_ONCE))
    raise TransferError(f"refused: more than {MAX_MEMBERS} members")
