"""Tar archives that nobody vouches for, packed or not: read in one pass, never onto the disk, and to a limited size.

Of the format only regular files under short names are read; links, devices, files with holes and the headers that
extend others are passed over. `tarfile` itself parses those, with recursion and with patterns that take forever.
"""

import bz2
import errno
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
    decompression_limit,
    error_summary,
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
        try:
            yield _files(LimitedReader(stream, limit))
        except DAMAGE_ERRORS as error:
            raise _damaged(error) from error
        except OSError as error:
            if error.errno not in (None, errno.EINVAL):  # what unpacks has errors without a number
                raise
            raise _damaged(error) from error


def _files(stream: LimitedReader) -> Iterator[tuple[str, LimitedReader]]:
    for _ in range(MAX_MEMBERS):
        try:
            member = tarfile.TarInfo.frombuf(stream.read(BLOCK), tarfile.ENCODING, "surrogateescape")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            return
        padded = -(-member.size // BLOCK) * BLOCK
        if not 0 <= padded <= stream.bytes_left:
            raise TransferError(
                f"refused: {printable(member.name)} is said to have {member.size} bytes, more than there can be"
            )
        before = stream.bytes_left
        if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
            yield member.name, LimitedReader(stream, member.size)
        while (rest := padded - (before - stream.bytes_left)) > 0:
            stream.read(min(rest, AT_ONCE))
    raise TransferError(f"refused: more than {MAX_MEMBERS} members")


def _damaged(error: Exception) -> TransferError:
    return TransferError(f"not a readable tar archive ({error_summary(error)})")
