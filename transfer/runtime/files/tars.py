"""Where the members of a tar lie, by its headers alone: a chain that leads from one to the next.

Headers of GNU and POSIX tar that extend others are read for long names and sizes, and nothing else; links, folders and
devices are passed over.
"""

import tarfile
from collections.abc import Iterator
from typing import Any

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import printable

BLOCK = tarfile.BLOCKSIZE
NOTHING = bytes(BLOCK)
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
EXTENDED, LONG_NAME = tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME
# Of a header that extends another.
MOST_TEXT = 1 << 20
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7z": "xz", b"\x28\xb5": "zstd"}


def members(file: Any, size: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, offset, size) of the regular files of a tar; the stream stands at the beginning of each.

    Tars that were joined are one. Raises TransferError for what is damaged or ends early.
    """
    at, more = 0, dict[bytes, bytes]()
    while at + BLOCK <= size:
        file.seek(at)
        header = file.read(BLOCK)
        at += BLOCK
        if header == NOTHING:
            continue
        length = _checked_size(header, at)
        kind = header[156:157]
        if kind in (EXTENDED, LONG_NAME):
            if length > min(MOST_TEXT, size - at):
                raise TransferError(f"damaged at byte {at}: a name of {length} bytes")
            text = file.read(length)
            more |= _records(text) if kind == EXTENDED else {b"path": text.rstrip(b"\0")}
        elif kind not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            name = more.get(b"path") or _name(header)
            if kind == tarfile.GNUTYPE_SPARSE or any(key.startswith(b"GNU.sparse") for key in more):
                raise TransferError(f"{printable(name)} is stored with holes; write the tar anew without --sparse")
            length = int(more.get(b"size", length))
            if not 0 <= length <= size - at:
                raise TransferError(f"ends early: {printable(name)} is said to have {length} bytes, {size - at} follow")
            if kind in REGULAR:
                yield name, at, length
            more = {}
        at += -(-length // BLOCK) * BLOCK
    if at < size:
        raise TransferError("ends early, in a header")


def has_end(file: Any, size: int) -> bool:
    """Whether a tar ends as tars do; one that does not may have been cut off between two members."""
    file.seek(max(size - BLOCK, 0))
    return file.read(BLOCK) == NOTHING


def _checked_size(header: bytes, at: int) -> int:
    """The size in a header; TransferError unless its checksum is right."""
    try:
        if int(header[148:156].strip(b" \0"), 8) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            raise ValueError
        field = header[124:136]
        size = int.from_bytes(field[1:], "big") if field[0] == 0x80 else int(field.strip(b" \0") or b"0", 8)
        if size < 0:
            raise ValueError
    except ValueError:
        packed = next((name for start, name in PACKED.items() if header.startswith(start)), None)
        if at > BLOCK or not packed:
            what = f"damaged at byte {at - BLOCK}" if at > BLOCK else "no tar"
            raise TransferError(f"{what}: there is no header of a member") from None
        raise TransferError(f"packed by {packed}; unpack it, images are read where they lie in the tar") from None
    return size


def _name(header: bytes) -> bytes:
    name, prefix = (header[start:stop].partition(b"\0")[0] for start, stop in ((0, 100), (345, 500)))
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _records(text: bytes) -> dict[bytes, bytes]:
    """The records `LENGTH KEY=VALUE` of a POSIX header."""
    records, at = dict[bytes, bytes](), 0
    while at < len(text) and text[at]:
        number = text[at : at + 8].partition(b" ")[0]
        length = int(number) if number.isdigit() else 0
        if not len(number) < length <= len(text) - at:
            raise TransferError("damaged: a header of POSIX tar without its records")
        key, _, value = text[at + len(number) + 1 : at + length - 1].partition(b"=")
        records[key] = value
        at += length
    if not records.get(b"size", b"0").isdigit():
        raise TransferError("damaged: a size that is no number")
    return records
