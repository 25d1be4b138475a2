"""Arrays out of `.npz` files whose headers may lie: of numbers and text alone, and no memory before there are bytes."""

import math
from typing import IO, Any

import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.archives import Archive
from transfer.runtime.files.untrusted import error_summary, prefix_errors, printable

ENDING = ".npy"
# Booleans, integers, floats, complex numbers, bytes and text; no objects, records, dates.
KINDS = "biufcSU"
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def names(archive: Archive) -> list[str]:
    """The names of the arrays in a zip, without `.npy`."""
    return [name.removesuffix(ENDING) for name in archive.members if name.endswith(ENDING)]


def read(archive: Archive, key: str) -> np.ndarray:
    """The array `key` of a zip, writable; TransferError, naming it, for objects and for what is not as it says."""
    member = key + ENDING
    with prefix_errors(f"array {printable(key)!r}"):
        with archive.open(member) as stream:
            _check(stream, archive.size(member))
        with archive.open(member) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)


def _check(stream: IO[bytes], size: int) -> None:
    """Raises TransferError unless `size` bytes are a header and just the numbers that it describes."""
    try:
        read_header: Any = HEADERS[np.lib.format.read_magic(stream)]
        shape, _, dtype = read_header(stream)
        if not all(isinstance(side, int) and side >= 0 for side in shape) or len(shape) > 64:
            raise ValueError("no shape")
    except Exception as error:  # Python's parser and tokenizer raise what they like
        raise TransferError(f"not an array, or a damaged one ({error_summary(error)})") from error
    if dtype.hasobject:
        raise TransferError("Object arrays are not read, only arrays of numbers and text")
    if dtype.kind not in KINDS or not dtype.itemsize:
        raise TransferError(f"arrays of {printable(str(dtype))} are not read, only arrays of numbers and text")
    left = size - stream.tell()
    if math.prod(shape) * dtype.itemsize != left:
        raise TransferError(f"shape {shape} of {dtype} is claimed, and {left} bytes are there")
