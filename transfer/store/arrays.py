"""Zarr v3 arrays through TensorStore: every chunk is one file, written atomically, flushed and checksummed."""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorstore as ts

from transfer.runtime.files.kvstore import translated_errors
from transfer.runtime.files.paths import kvstore_spec, wait_for


@dataclass(frozen=True)
class ArraySpec:
    """An array of a store: its name, shape and type, the rows of its chunks and the value of a missing element."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    chunk_rows: int
    fill_value: object = 0

    @property
    def metadata(self) -> dict[str, Any]:
        """The part of the array's `zarr.json` that is particular to this array."""
        return {
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [self.chunk_rows, *(max(n, 1) for n in self.shape[1:])]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": self.fill_value,
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "dimension_names": ["row", *(f"axis{i}" for i in range(1, len(self.shape)))],
        }

    @property
    def num_chunks(self) -> int:
        """The number of chunks of the whole array."""
        return -(-self.shape[0] // self.chunk_rows)

    def chunk_key(self, index: int) -> str:
        """The chunk `index` as a key below the array's `c/`."""
        return "/".join([str(index)] + ["0"] * (len(self.shape) - 1))


class ChunkedArray:
    """An array in the store at `path`, whose chunks hold whole rows."""

    def __init__(self, path: str, spec: ArraySpec, optional_chunks: bool, **mode: Any) -> None:
        self.path, self.spec = path, spec
        settings = {
            "driver": "zarr3",
            "kvstore": kvstore_spec(path, f"{spec.name}/"),
            # rows that happen to equal the fill value are rows all the same
            "store_data_equal_to_fill_value": True,
            "fill_missing_data_reads": optional_chunks,
            "metadata": spec.metadata,
        }
        with self._errors_named():
            self._array = wait_for(ts.open(settings, **mode), path)
        self.shape, self.dtype = spec.shape, np.dtype(self._array.dtype.numpy_dtype)

    @classmethod
    def create(cls, path: str, spec: ArraySpec) -> "ChunkedArray":
        """Writes the array's own metadata where it has none, beside chunks that may be there already."""
        return cls(path, spec, False, create=True)

    @classmethod
    def open(cls, path: str, spec: ArraySpec, optional_chunks: bool = False, assume: bool = False) -> "ChunkedArray":
        """Opens the array that `spec` describes.

        Reading a chunk that is not there is an error unless `optional_chunks` (then: the fill value). Raises
        TransferError where the array is missing, or another than the one that is described; `assume` does not look.
        """
        return cls(path, spec, optional_chunks, open=True, assume_metadata=assume)

    def _errors_named(self) -> AbstractContextManager[None]:
        return translated_errors(f"{self.path}/{self.spec.name}", self.path)

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Rows by a slice with a start and a stop, or by an array of indices; TransferError for a damaged chunk."""
        with self._errors_named():
            return np.asarray(wait_for(self._array[rows].read(), self.path, math.inf))

    def write(self, start: int, values: np.ndarray) -> Any:
        """Starts to write whole chunks from row `start`; `wait` on what it returns."""
        if start + len(values) == self.shape[0] and self.shape[0] % self.spec.chunk_rows:
            # into an incomplete last chunk TensorStore would write what it reads there first, which may be damaged
            with self._errors_named():
                last = self.spec.chunk_key(self.shape[0] // self.spec.chunk_rows)
                wait_for(self._array.kvstore.write(f"c/{last}", None), self.path)
        return self._array[start : start + len(values)].write(values)

    def wait(self, writing: Any) -> None:
        """Returns when the chunks are on the disk; OSError where it is full."""
        with self._errors_named():
            wait_for(writing, self.path, math.inf)
