"""Zarr v3 arrays through TensorStore: every chunk is one file, written atomically, flushed and checksummed."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from transfer.errors import TransferError

# Written by TensorStore into the messages of its file driver.
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")
# Its status codes as Python exceptions, all of them built-in ones.
_TENSORSTORE_ERRORS = (ValueError, RuntimeError, NotImplementedError, OSError)
_FILE_NAME = re.compile(r'local file "([^"]+)"')


def kvstore_spec(path: str, below: str = "") -> dict[str, str]:
    """Where `below` lies in the directory `path`, a local path or `gs://BUCKET/PATH`, for TensorStore."""
    if path.startswith("gs://"):
        bucket, _, prefix = path.removeprefix("gs://").partition("/")
        return {"driver": "gcs", "bucket": bucket, "path": f"{prefix.rstrip('/')}/{below}".lstrip("/")}
    # the file driver renames a flushed temporary file onto each key
    return {"driver": "file", "path": f"{Path(path).expanduser().absolute()}/{below}"}


def open_kvstore(path: str) -> Any:
    """The directory `path` as TensorStore's key-value store."""
    return ts.KvStore.open(kvstore_spec(path)).result()


class Directory:
    """The files of one store, as keys relative to its `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        with readable(path):
            self._files = open_kvstore(path)

    def read_json(self, key: str) -> Any | None:
        """The JSON value at `key`, None where there is no such file; TransferError if it is not JSON."""
        with readable(f"{self.path}/{key}"):
            found = self._files.read(key).result()
        if found.state != "value":
            return None
        try:
            return json.loads(found.value)
        except ValueError:
            raise TransferError(f"{self.path}/{key} is not JSON; delete {self.path} and start again") from None

    def write_json(self, key: str, value: object) -> None:
        """Writes `value` at `key`, whole or not at all, and on the disk when this returns."""
        with readable(f"{self.path}/{key}"):
            self._files.write(key, json.dumps(value, indent=1).encode()).result()

    def list(self, prefix: str) -> set[str]:
        """The keys below `prefix`, relative to it; temporary files are not listed."""
        with readable(f"{self.path}/{prefix}"):
            found = self._files.list(_range(prefix), strip_prefix_length=len(prefix)).result()
        return {key.decode() for key in found}

    def delete(self, prefix: str) -> None:
        """Removes every file below `prefix`."""
        with readable(f"{self.path}/{prefix}"):
            self._files.delete_range(_range(prefix)).result()


def _range(prefix: str) -> Any:
    return ts.KvStore.KeyRange(prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1))


@contextmanager
def readable(where: str) -> Iterator[None]:
    """Turns what TensorStore raises into an OSError where the operating system refused, else a TransferError."""
    try:
        yield
    except _TENSORSTORE_ERRORS as error:
        raise _translated(error, where) from error


def _translated(error: Exception, where: str) -> Exception:
    message, name = str(error), _FILE_NAME.search(str(error))
    if code := _OS_ERROR.search(message):
        number = int(code[1])
        return OSError(number, os.strerror(number), name[1] if name else where)
    file = name[1] if name else where
    if message.startswith("DATA_LOSS"):
        return TransferError(f"{file} is damaged (its checksum does not match); delete the store and extract again")
    if message.startswith("NOT_FOUND"):
        return TransferError(f"{file} is missing from the store; delete the store and extract again")
    return TransferError(f"{where}: {message}")


class ChunkedArray:
    """An array of `dtype` and `shape` whose chunks hold `chunk_rows` whole rows each."""

    def __init__(self, path: str, name: str, array: Any) -> None:
        self.path, self.name, self._array = path, name, array
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype = np.dtype(array.dtype.numpy_dtype)

    @classmethod
    def create(
        cls, path: str, name: str, shape: Sequence[int], dtype: str, chunk_rows: int, fill: object = 0
    ) -> "ChunkedArray":
        """Writes the array's own metadata, over that of an array that is there already."""
        metadata = {
            "shape": list(shape),
            "data_type": dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [chunk_rows, *(max(n, 1) for n in shape[1:])]},
            },
            "fill_value": fill,
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "dimension_names": ["row", *(f"axis{i}" for i in range(1, len(shape)))],
        }
        return cls(path, name, _open(path, name, metadata=metadata, create=True, delete_existing=True))

    @classmethod
    def open(cls, path: str, name: str, optional_chunks: bool = False) -> "ChunkedArray":
        """Opens an array; reading a chunk that is not there is an error unless `optional_chunks` (then: the fill)."""
        return cls(path, name, _open(path, name, optional_chunks=optional_chunks, open=True))

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Rows by a slice with a start and a stop, or by an array of indices; TransferError for a damaged chunk."""
        with readable(f"{self.path}/{self.name}"):
            return np.asarray(self._array[rows].read().result())

    def write(self, start: int, values: np.ndarray) -> Any:
        """Starts to write whole chunks from row `start`; `wait` on what it returns."""
        return self._array[start : start + len(values)].write(values)

    def wait(self, writing: Any) -> None:
        """Returns when the chunks are on the disk; OSError where it is full."""
        with readable(f"{self.path}/{self.name}"):
            writing.result()


def _open(path: str, name: str, metadata: object = None, optional_chunks: bool = False, **mode: Any) -> Any:
    spec: dict[str, object] = {
        "driver": "zarr3",
        "kvstore": kvstore_spec(path, f"{name}/"),
        # rows that happen to equal the fill value are rows all the same
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": optional_chunks,
    }
    if metadata is not None:
        spec["metadata"] = metadata
    with readable(f"{path}/{name}"):
        return ts.open(spec, **mode).result()
