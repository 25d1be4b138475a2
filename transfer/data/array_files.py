"""Images and labels as arrays in files: `npz:PATH` (NumPy), `h5:PATH` (HDF5), `mat:PATH` (MATLAB), `idx:PATH` (MNIST).

A file has arrays for each split, or there is a folder with a file for each split. Images of `h5:` are read from the
file one by one, the others lie in memory.
"""

import functools
import gzip
import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from transfer.data.layout import no_split
from transfer.data.source import ArraySource, BrokenImage, Source, digest
from transfer.errors import TransferError, UsageError
from transfer.runtime.files import archives
from transfer.runtime.files.sandbox import MATLAB, SandboxedArray, SandboxedFile
from transfer.runtime.files.untrusted import (
    DAMAGE_ERRORS,
    LimitedReader,
    decompression_limit,
    error_summary,
    prefix_errors,
    printable,
)

# names of (images, labels) of a split, and where there are no splits, tried in this order
SPLIT_NAMES = (
    ("{}_images", "{}_labels"), ("images_{}", "labels_{}"), ("x_{}", "y_{}"), ("X_{}", "y_{}"),
    ("{}/images", "{}/labels"), ("{}_set_x", "{}_set_y"),
)  # fmt: skip
WHOLE_NAMES = (("images", "labels"), ("X", "y"), ("x", "y"), ("data", "labels"), ("data", "label"))
IDX_NAME = re.compile(r"(.+?)[-_.](images|labels)[-_.]idx[13]-ubyte(\.gz)?")
IDX_BYTES = b"\0\0\x08"  # how a file of unsigned bytes begins, before its number of axes
MAT_HDF5 = b"MATLAB 7.3"  # how a file of MATLAB begins that is HDF5
AT_ONCE, KEPT = 1 << 20, 32  # bytes of images that are read together, and how many of these blocks are kept

# The names of the arrays of a file, and what reads one.
Arrays = tuple[Collection[str], Callable[[str], Any]]


def _open(kind: str, path: str, split: str | None) -> Source:
    """The images and labels of a split, or of a file without splits.

    Raises UsageError for a split that is not there, TransferError for a damaged file and for arrays that do not fit.
    """
    name, file, splits = f"{kind}:{path}", path, [split]
    if os.path.isdir(path) and kind != "idx":
        file, splits = _file_of_split(name, path, split, ENDINGS[kind]), [split, None]
    with prefix_errors(name), READERS[kind](file) as (names, array):
        images, labels = _array_names(names, splits)
        pixels, known = array(images), np.asarray(array(labels)[:])
        class_names = [str(text) for text in array("class_names")[:].reshape(-1)] if "class_names" in names else None
    known = known.reshape(-1) if known.ndim == 2 and 1 in known.shape else known
    if isinstance(pixels, SandboxedArray):
        rows: Any = _Rows(pixels, turned=kind == "mat")
        return StoredSource(name, rows, known, class_names, split)
    if kind == "mat" and pixels.shape[-1] == len(known) and pixels.shape[2:-1] in ((), (1,), (3,)):  # images come last
        pixels = np.moveaxis(pixels, -1, 0)
    return ArraySource(name, pixels, known, class_names, split)


def _file_of_split(name: str, path: str, split: str | None, endings: tuple[str, ...]) -> str:
    """The file of a folder that is called `SPLIT.h5`, or `SPLIT_32x32.mat`."""
    files = {file.rpartition(".")[0]: file for file in sorted(os.listdir(path)) if file.lower().endswith(endings)}
    of_split = [file for stem, file in files.items() if split in (stem, re.split(r"[_-]", stem)[0])]
    if not of_split:
        raise no_split(name, split, list(files))
    return os.path.join(path, of_split[0])


def _array_names(names: Collection[str], splits: Sequence[str | None]) -> tuple[str, str]:
    """The names of the arrays of images and of labels."""
    forms = [(form, split) for split in splits for form in (SPLIT_NAMES if split else WHOLE_NAMES)]
    candidates = [(images.format(split), labels.format(split)) for (images, labels), split in forms]
    for images, labels in candidates:
        if images in names and labels in names:
            return images, labels
    message = f"needs arrays {' and '.join(candidates[0])}; it holds "
    message += ", ".join(map(printable, sorted(names)[:8])) or "nothing"
    if splits[0]:
        raise UsageError(message)
    if any(re.fullmatch(form.format(".+"), name) for pair in SPLIT_NAMES for form in pair for name in names):
        raise UsageError(f"{message}; name a split")
    raise TransferError(message)


@contextmanager
def _npz(path: str) -> Iterator[Arrays]:
    with open(path, "rb") as stream:
        if stream.read(len(archives.ARRAY_START)) == archives.ARRAY_START:
            raise TransferError("holds one array; expected an npz file with images and labels")
        with archives.open_zip(stream) as archive:
            yield archive.array_names(), archive.array


@contextmanager
def _h5(path: str) -> Iterator[Arrays]:
    arrays = SandboxedFile(path).arrays
    yield arrays, arrays.__getitem__


@contextmanager
def _mat(path: str) -> Iterator[Arrays]:
    """Of a file of version 5, as a whole; those of 7.3 are HDF5."""
    with open(path, "rb") as stream:
        is_hdf5 = stream.read(len(MAT_HDF5)) == MAT_HDF5
    arrays = (SandboxedFile(path) if is_hdf5 else SandboxedFile(path, MATLAB, "MATLAB")).arrays
    yield arrays, lambda name: arrays[name] if is_hdf5 else arrays[name][:].T


@contextmanager
def _idx(path: str) -> Iterator[Arrays]:
    """Of the files `train-images-idx3-ubyte` … in a folder, packed or not; `t10k` is the split test."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    files = {}
    for file in sorted(os.listdir(folder)):
        if match := IDX_NAME.fullmatch(file):
            files[f"{match[1].replace('t10k', 'test')}_{match[2]}"] = os.path.join(folder, file)
    yield files, lambda name: _idx_array(files[name])


def _idx_array(path: str) -> np.ndarray:
    with open(path, "rb") as file, prefix_errors(os.path.basename(path)):
        limit = decompression_limit(os.fstat(file.fileno()).st_size)
        stream = LimitedReader(gzip.GzipFile(fileobj=file), limit) if path.endswith(".gz") else LimitedReader(file)
        try:
            start = stream.read(4)
            if start[:3] != IDX_BYTES:
                raise ValueError("it does not begin as one of unsigned bytes does")
            shape = struct.unpack(f">{start[3]}I", stream.read(4 * start[3]))
            return np.frombuffer(stream.read(math.prod(shape)), np.uint8).reshape(shape)
        except (*DAMAGE_ERRORS, OSError, zlib.error) as error:
            raise TransferError(f"not an idx file, or a damaged one ({error_summary(error)})") from error


class _Rows:
    """An array of images in an HDF5 file as (N, h, w, channels); `turned`: axes in the order that MATLAB leaves."""

    def __init__(self, array: SandboxedArray, turned: bool) -> None:
        self.array, (count, *sides) = array, array.shape
        self.order = tuple(range(len(sides)))[:: -1 if turned else 1]
        if not turned and len(sides) == 3 and sides[0] in (1, 3) and sides[2] not in (1, 3):
            self.order = (1, 2, 0)  # colours first, as PyTorch has them
        self.shape = (count, *(sides[axis] for axis in self.order), *([1] if len(sides) == 2 else []))
        self.dtype, self.ndim, self.size = array.dtype, len(self.shape), array.size
        self.at_once = max(1, AT_ONCE * len(array) // max(array.size * array.dtype.itemsize, 1))
        self.block = functools.lru_cache(KEPT)(lambda start: array[start : start + self.at_once])

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, row: int) -> np.ndarray:
        block, at = divmod(row, self.at_once)
        return np.ascontiguousarray(self.block(block * self.at_once)[at].transpose(self.order)).reshape(self.shape[1:])


class StoredSource(ArraySource):
    """Images of an array that is read from its file as they are asked for."""

    in_order = True
    images: Any

    def image(self, index: int) -> np.ndarray:
        try:
            return super().image(index)
        except TransferError as error:
            raise BrokenImage(f"{self.name}: {self.ids[index]}: {error}") from error

    @functools.cached_property
    def fingerprint(self) -> str:
        with open(self.images.array.file.path, "rb") as file:
            checksum = functools.reduce(
                lambda crc, part: zlib.crc32(part, crc), iter(lambda: file.read(AT_ONCE), b""), 0
            )
        return digest(self, (checksum.to_bytes(4, "big"),))


READERS: dict[str, Any] = {"npz": _npz, "h5": _h5, "mat": _mat, "idx": _idx}
ENDINGS = {"npz": (".npz",), "h5": (".h5", ".hdf5"), "mat": (".mat",)}
open_npz, open_h5, open_mat, open_idx = (functools.partial(_open, kind) for kind in READERS)
