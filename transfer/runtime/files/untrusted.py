"""How much of what a file says is believed: the text that messages show of it, and the sizes that it claims.

A file from anybody may be damaged or made to harm. Memory is taken only for bytes that are there: what is packed may
unpack to `decompression_limit` of its packed size and no more, and a length is compared with what is left before
anything is allocated.
"""

import json
import os
import pickle
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transfer.errors import TransferError

# What parsers raise for damaged and hostile files; everything else is a bug of ours.
DAMAGE_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    BufferError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)

# What is packed may unpack to so many bytes, or to so many times its size where that is more. Deflate makes up to
# 1,032 times as much of zeros; weights, features and photographs come to less than ten.
DECOMPRESSION_FLOOR = 256 << 20
DECOMPRESSION_RATIO = 50

# A label is a claim too: each class is a name in memory, and a column of every head.
MAX_CLASSES = 1 << 20

# A JSON text: the names of 21,843 classes with what they mean are 2 MB. As objects it takes thirty times it.
MAX_JSON = 1 << 23

MAX_PRINTED = 80


def decompression_limit(packed: int) -> int:
    """The bytes to which a file of `packed` bytes, or all its parts together, may unpack."""
    return max(DECOMPRESSION_FLOOR, DECOMPRESSION_RATIO * packed)


def printable(text: object, length: int = MAX_PRINTED) -> str:
    """Text from a file as a message may show it: short, on one line, nothing in it that a terminal would act on."""
    if isinstance(text, bytes):
        text = text[: length + 1].decode("latin1")
    if isinstance(text, (bool, float, type(None))) or (isinstance(text, int) and text.bit_length() < 128):
        return str(text)
    if not isinstance(text, str):
        return f"a {type(text).__name__}"
    return repr(text[:length])[1:-1] + ("…" if len(text) > length else "")


def error_summary(error: BaseException) -> str:
    """The error in a few words on one line; for errors whose text a file has a hand in."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {printable(text, 2 * MAX_PRINTED)}" if text else type(error).__name__


def json_object(path: Path) -> dict[str, Any]:
    """The object in a small JSON text, empty where it is something else; TransferError where it is none."""
    size = path.stat().st_size
    if size > MAX_JSON:
        raise TransferError(f"a JSON text of {size} bytes, where {MAX_JSON} may be")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise TransferError(f"no whole JSON text ({error_summary(error)})") from error
    return content if isinstance(content, dict) else {}


@contextmanager
def prefix_errors(name: object) -> Iterator[None]:
    """Puts the name of the file in front of the message of a TransferError."""
    try:
        yield
    except TransferError as error:
        raise type(error)(f"{name}: {error}") from error


def remaining_size(stream: Any) -> int:
    """The number of bytes between where a seekable stream stands and its end."""
    here = stream.tell()
    end = stream.seek(0, os.SEEK_END)
    stream.seek(here)
    return end - here


class LimitedReader:
    """A stream of which at most `size` bytes are read, and nothing is allocated for bytes that are not there.

    Reading more than `bytes_left` raises EOFError.
    """

    def __init__(self, stream: Any, size: int | None = None) -> None:
        self._stream = stream
        self.bytes_left = remaining_size(stream) if size is None else size
        self.bytes_read = 0

    def read(self, size: int | None = None) -> bytes:
        """Exactly `size` bytes, or all that are left; EOFError where there are fewer."""
        wanted = self.bytes_left if size is None or size < 0 else size
        if wanted and not self.bytes_left:
            raise EOFError("it ends early")
        if wanted > self.bytes_left:
            raise EOFError(f"{wanted} bytes are claimed where {self.bytes_left} are left")
        return self._count(self._stream.read(wanted), wanted)

    def readline(self, size: int | None = None) -> bytes:
        """The bytes up to the next end of line, at most `size`."""
        limit = self.bytes_left if size is None or size < 0 else min(size, self.bytes_left)
        return self._count(self._stream.readline(limit), 0)

    def _count(self, data: bytes, wanted: int) -> bytes:
        self.bytes_left -= len(data)
        self.bytes_read += len(data)
        if len(data) < wanted:
            raise EOFError(f"{wanted} bytes are claimed where {len(data)} are left")
        return data
