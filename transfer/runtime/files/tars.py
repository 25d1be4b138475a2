"""Where the members of a tar lie, by its headers alone: a chain that leads from one to the next.

Headers of GNU and POSIX tar that extend others are read for long names; links, folders and devices are passed over.
`tarfile` takes five times as long, and parses more than it can be trusted with, by recursion and by patterns that take
for ever.
"""

import re
import tarfile
from collections.abc import Iterator
from typing import Any

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import printable

BLOCK = tarfile.BLOCKSIZE
NOTHING = bytes(BLOCK)
AGAIN = "; copy or download it again"
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
# Of a header that extends another; POSIX' has lines `LENGTH KEY=VALUE`.
MOST_TEXT = 1 << 20
PATH, OTHER_SIZE = re.compile(rb"^\d+ path=(.*)$", re.M), re.compile(rb"^\d+ (size=|GNU\.sparse)", re.M)


def members(file: Any, size: int, is_limit: bool = False) -> Iterator[tuple[bytes, int, int]]:
    """(name, offset, size) of the regular files of a tar; the stream stands at the beginning of each.

    Tars that were joined are one. `is_limit`: `size` is how much there may be of a tar that is unpacked as it is read.
    Raises TransferError for what is damaged or ends early.
    """
    at, long_name = 0, b""
    while at < size:
        file.seek(at)
        header = file.read(BLOCK)
        if not header and at:
            return
        if header == NOTHING:
            at += BLOCK
            continue
        length, kind = _checked_size(header, at), header[156:157]
        name, at = long_name or _name(header), at + BLOCK
        if length > size - at:
            short = f"{printable(name)} is said to have {length} bytes, {size - at} "
            raise TransferError(f"refused: {short}may follow" if is_limit else f"ends early: {short}follow{AGAIN}")
        text = file.read(min(length, MOST_TEXT)) if kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME) else b""
        if kind == tarfile.GNUTYPE_SPARSE or OTHER_SIZE.search(text):
            raise TransferError("holds a file of more than 8 GB, or one with holes; write the tar anew without it")
        if kind == tarfile.GNUTYPE_LONGNAME:
            long_name = text.rstrip(b"\0")
        elif kind == tarfile.XHDTYPE:
            long_name = (PATH.findall(text) or [long_name])[-1]
        elif kind not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            if kind in REGULAR:
                yield name, at, length
            long_name = b""
        at += -(-length // BLOCK) * BLOCK


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
        if size < 0 or len(header) < BLOCK:
            raise ValueError
    except ValueError:
        where = f"damaged at byte {at}" if at else "no tar, or a packed one (unpack it: images are read by position)"
        raise TransferError(f"{where}: there is no header of a member") from None
    return size


def _name(header: bytes) -> bytes:
    name, prefix = (header[start:stop].partition(b"\0")[0] for start, stop in ((0, 100), (345, 500)))
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name
