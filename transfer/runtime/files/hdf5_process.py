"""The process that looks into HDF5 files of anybody, and what it has in common with those that read other files.

It is asked by `transfer.runtime.files.sandbox`.
"""

import io
import json
import math
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.sandbox import BFLOAT16, NUMBERS
from transfer.runtime.files.untrusted import DECOMPRESSION_FLOOR, DECOMPRESSION_RATIO, error_summary, printable

# Groups in groups, and arrays, of which anything is known.
DEEPEST, MOST_ARRAYS = 10, 10_000
# For a small file; HDF5's library and NumPy alone take 0.2 GiB of addresses.
MEMORY = 1 << 30
# Deflate, shuffle, a checksum; others may be code.
FILTERS = {1, 2, 3}
LARGEST_ATTRIBUTE = 1 << 24


def limit(size: int, seconds: int) -> None:
    """Ends this process, or what it does, at the memory that `size` bytes take and at so many seconds of a core."""
    for kind, most in ((resource.RLIMIT_AS, MEMORY + 4 * size), (resource.RLIMIT_CPU, seconds)):
        hard = resource.getrlimit(kind)[1]
        with suppress(OSError, ValueError):  # macOS has no limit on addresses
            resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def check(dataset: Any, name: str, size: int) -> None:
    """Raises TransferError for anything but numbers of which the file of `size` bytes has as many."""
    if not isinstance(dataset, h5py.Dataset):
        raise TransferError(f"{name} is a group, not numbers")
    if dataset.external or dataset.is_virtual:
        raise TransferError(f"refused: {name} lies in another file, to which this one only points")
    if dtype_of(dataset).kind not in NUMBERS and dtype_of(dataset).name != BFLOAT16:
        raise TransferError(f"refused: {name} holds {dataset.dtype}, not numbers")
    if dataset.shape is None:
        raise TransferError(f"{name} holds nothing")
    claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = min(dataset.id.get_storage_size(), size)
    if claimed > (DECOMPRESSION_RATIO * stored if dataset.chunks else stored):
        raise TransferError(f"refused: {name} claims {claimed} bytes, and {stored} are there")
    if dataset.chunks:
        properties = dataset.id.get_create_plist()
        filters = {properties.get_filter(number)[0] for number in range(properties.get_nfilters())}
        if math.prod(dataset.chunks) * dataset.dtype.itemsize > DECOMPRESSION_FLOOR or filters - FILTERS:
            raise TransferError(f"refused: {name} is compressed in a way that is not supported")


def child(group: Any, name: str, listed_as: str = "") -> Any:
    """The member `name` of a group, None or TransferError where one that is `listed_as` something is not there.

    No link is followed that only names where it leads to, which opens other files.
    """
    for part in filter(None, name.split("/")):
        if not isinstance(group, h5py.Group) or part == "." or part not in group:
            if listed_as:
                raise TransferError(f"it lists {printable(name)} as a {listed_as}, but does not hold it")
            return None
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            text = f"refused: {printable(name)} lies in another file or place, to which this one only points"
            raise TransferError(text)
        group = group[part]
    return group


def dtype_of(dataset: Any) -> np.dtype:
    """The type of an array; HDF5 has no bfloat16, and Keras says so in an attribute."""
    is_bfloat16 = text_of(dataset, "dtype") == BFLOAT16 and dataset.dtype.itemsize == 2
    return np.dtype(ml_dtypes.bfloat16) if is_bfloat16 else dataset.dtype


def attribute_of(item: Any, name: str) -> Any:
    """An attribute, looked at before there is memory for it."""
    stored = item.attrs.get_id(name)
    if math.prod(stored.shape or ()) * max(stored.dtype.itemsize, 1) > LARGEST_ATTRIBUTE:
        where = f"{printable(name)} of {printable(item.name)}"
        raise TransferError(f"refused: the attribute {where} claims shape {stored.shape}")
    return item.attrs[name]


def text_of(item: Any, name: str) -> str | None:
    """An attribute that is text, None for any other."""
    value = attribute_of(item, name) if name in item.attrs else None
    return value.decode("utf-8") if isinstance(value, bytes) else value if isinstance(value, str) else None


def serve(opened: Callable[[Any, int], Any]) -> None:
    """`… KIND SIZE CPU_SECONDS PATH`: answers lines about the file at PATH; where that is empty, the SIZE bytes before.

    An answer is a line of JSON: `error`; to `null` what the file holds; to `[NAME, START, STOP]` the `length` of these
    rows of an array, and behind it so many bytes.

    Args:
        opened: of file and size what has `holds()` and `rows(name, start, stop)`.
    """
    (kind, size, seconds, path), questions = sys.argv[1:], sys.stdin.buffer
    source: Any = path or io.BytesIO(questions.read(int(size)))
    file = None
    for line in questions:
        limit(int(size), int(sum(os.times()[:2])) + int(seconds))
        content: Any = b""
        try:
            file = file or opened(source, int(size))
            if (request := json.loads(line)) is None:
                answer = file.holds()
            else:
                content = np.ascontiguousarray(file.rows(*request)).reshape(-1).view(np.uint8).data
                answer = {"length": len(content)}
        except MemoryError:
            answer = {"error": f"refused: a {kind} file of {size} bytes that takes more than {MEMORY + 4 * int(size)}"}
        except Exception as error:  # of a damaged file, libraries raise what they like
            damage = f"a damaged or truncated {kind} file ({error_summary(error)})"
            answer = {"error": str(error) if isinstance(error, TransferError) else damage}
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.write(content)
        sys.stdout.flush()
    os._exit(0)  # what a damaged file left behind is not to be tidied up


class Hdf5:
    """The arrays of numbers in an HDF5 file, by their paths."""

    def __init__(self, source: Any, size: int) -> None:
        self.file, self.size = h5py.File(source, "r", locking=False), size

    def holds(self) -> dict[str, Any]:
        """The dtypes and shapes of all arrays."""
        return {"arrays": {name: (dtype_of(array).name, array.shape) for name, array in _arrays(self.file, "", 0)}}

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Some rows of an array, or all of one without rows, in the order of bytes that is usual."""
        check(array := child(self.file, name, "array"), printable(name), self.size)
        content = np.asarray(array[start:stop] if array.shape else array[()])
        return content.astype(array.dtype.newbyteorder("<"), copy=False)


def main() -> None:
    """Answers about an HDF5 file."""
    serve(Hdf5)


def _arrays(group: Any, above: str, depth: int) -> Iterator[tuple[str, Any]]:
    """The arrays of numbers below a group, by their paths; no link is followed that only names where it leads to."""
    if depth > DEEPEST or len(group) > MOST_ARRAYS:
        raise TransferError(f"refused: groups more than {DEEPEST} deep, or of more than {MOST_ARRAYS}")
    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.HardLink):
            item, path = group[name], f"{above}{name}"
            if isinstance(item, h5py.Group):
                yield from _arrays(item, f"{path}/", depth + 1)
            elif isinstance(item, h5py.Dataset) and item.shape and item.dtype.kind in NUMBERS:
                yield path, item
