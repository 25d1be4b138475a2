"""Zip files from anybody: members are unpacked in memory, never onto the disk, and to a limited size."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import IO, Any, BinaryIO

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import (
    DAMAGE_ERRORS,
    damage_reported_as,
    decompression_limit,
    printable,
    remaining_size,
)

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 1


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


@contextmanager
def open_zip(file: BinaryIO) -> Iterator[Archive]:
    """The zip in a seekable stream; whatever is wrong with it, found now or while it is read, is a TransferError.

    OSError stays what it is where the file cannot be read.
    """
    damage = (*DAMAGE_ERRORS, zipfile.BadZipFile, zlib.error, RuntimeError)
    with damage_reported_as("a damaged or truncated zip archive", damage):
        file.seek(0)
        with closing(Archive(file, remaining_size(file))) as archive:
            yield archive
