"""Zarr v3 arrays through TensorStore: every chunk is one file, written atomically, flushed and checksummed."""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorstore as ts

from transfer import paths
from transfer.bucket import answer
from transfer.errors import TransferError

# Written by TensorStore into the messages of its file driver.
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")
# Its status codes as Python exceptions, all of them built-in ones.
_TENSORSTORE_ERRORS = (ValueError, RuntimeError, NotImplementedError, OSError)
# Of a message, which may show what a damaged file holds.
LONGEST = 500
_FILE_NAME = re.compile(r'local file "([^"]+)"')


def kvstore_spec(path: str, below: str = "") -> dict[str, str]:
    """Where `below` lies in the directory `path`, a local path or `gs://BUCKET/PATH`, for TensorStore."""
    if path.startswith("gs://"):
        bucket, _, prefix = path.removeprefix("gs://").partition("/")
        return {"driver": "gcs", "bucket": bucket, "path": f"{prefix.rstrip('/')}/{below}".lstrip("/")}
    # the file driver renames a flushed temporary file onto each key
    return {"driver": "file", "path": f"{os.path.abspath(paths.given(path))}/{below}"}


def open_kvstore(path: str) -> Any:
    """The directory `path` as TensorStore's key-value store."""
    return answer(ts.KvStore.open(kvstore_spec(path)), path)


class Directory:
    """The files of one store, as keys relative to its `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        with readable(path):
            self._files = open_kvstore(path)

    def read(self, key: str) -> bytes | None:
        """What is at `key`, None where there is no such file."""
        with readable(f"{self.path}/{key}"):
            found = answer(self._files.read(key), f"{self.path}/{key}")
        return found.value if found.state == "value" else None

    def write(self, key: str, value: bytes) -> None:
        """Writes `value` at `key`, whole or not at all, and on the disk when this returns."""
        with readable(f"{self.path}/{key}"):
            answer(self._files.write(key, value), f"{self.path}/{key}")

    def write_json(self, key: str, value: object) -> None:
        """Writes `value` at `key`, whole or not at all, and on the disk when this returns."""
        self.write(key, json.dumps(value, indent=1).encode())

    def list(self, prefix: str) -> set[str]:
        """The keys below `prefix`, relative to it; temporary files are not listed."""
        return self._list(_range(prefix), len(prefix))

    def list_outside(self, prefixes: Iterable[str]) -> Iterator[str]:
        """Yields the keys that lie below none of `prefixes`, without looking at those that do."""
        start = ""
        for key_range in map(_range, sorted(prefixes)):
            yield from self._list(ts.KvStore.KeyRange(start, key_range.inclusive_min))
            start = key_range.exclusive_max
        yield from self._list(ts.KvStore.KeyRange(start, ""))

    def _list(self, keys: Any, strip: int = 0) -> set[str]:
        with readable(self.path):
            found = answer(self._files.list(keys, strip_prefix_length=strip), self.path, math.inf)
        return {key.decode("utf-8", "surrogateescape") for key in found}

    def remove(self, key: str) -> None:
        """Removes the file at `key`, if it is there."""
        with readable(f"{self.path}/{key}"):
            answer(self._files.write(key, None), f"{self.path}/{key}")

    def delete(self, prefix: str) -> None:
        """Removes every file below `prefix`."""
        with readable(f"{self.path}/{prefix}"):
            answer(self._files.delete_range(_range(prefix)), f"{self.path}/{prefix}", math.inf)


def _range(prefix: str) -> Any:
    return ts.KvStore.KeyRange(prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1))


@contextmanager
def readable(where: str, store: str | None = None) -> Iterator[None]:
    """Turns what TensorStore raises into an OSError where the operating system refused, else a TransferError.

    `store`: the feature store that the file is of, which can be repaired.
    """
    try:
        yield
    except _TENSORSTORE_ERRORS as error:
        raise _translated(error, where, store) from error


def _translated(error: Exception, where: str, store: str | None) -> Exception:
    message, name = str(error).partition(" [tensorstore_spec=")[0][:LONGEST], _FILE_NAME.search(str(error))
    if code := _OS_ERROR.search(str(error)):
        number = int(code[1])
        return OSError(number, os.strerror(number), name[1] if name else where)
    file = name[1] if name else where
    hint = f"; {repair_hint(store)}" if store else ""
    if message.startswith("NOT_FOUND"):
        return TransferError(f"{file} is missing from the store{hint}")
    if message.startswith("DATA_LOSS") or (name and message.startswith("FAILED_PRECONDITION")):
        return TransferError(f"{file} is damaged ({message.rpartition(name[0] + ': ' if name else ': ')[2]}){hint}")
    if store and message.startswith("FAILED_PRECONDITION"):
        return TransferError(f"{where}/zarr.json is damaged ({message.partition('driver: ')[2]}){hint}")
    return TransferError(f"{where}: {message}")


def repair_hint(store: str) -> str:
    """What to do about a damaged store."""
    return f"`python -m transfer features verify {store} --repair` redoes what is damaged"


@dataclass(frozen=True)
class ArraySpec:
    """An array of a store: its name, shape and type, the rows of its chunks and the value of a missing one."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    chunk_rows: int
    fill: object = 0

    @property
    def metadata(self) -> dict[str, Any]:
        """The array's `zarr.json`, as far as it is not the same for all."""
        return {
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [self.chunk_rows, *(max(n, 1) for n in self.shape[1:])]},
            },
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": self.fill,
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "dimension_names": ["row", *(f"axis{i}" for i in range(1, len(self.shape)))],
        }

    @property
    def zarr_json(self) -> bytes:
        """The file that TensorStore writes for such an array."""
        memory = {"driver": "memory"}
        spec = {"driver": "zarr3", "kvstore": memory, "metadata": self.metadata}
        context = ts.Context()
        ts.open(spec, context=context, create=True).result()
        return ts.KvStore.open(memory, context=context).result().read("zarr.json").result().value

    @property
    def num_chunks(self) -> int:
        """Chunks of the whole array."""
        return -(-self.shape[0] // self.chunk_rows)

    def chunk_key(self, index: int) -> str:
        """The chunk `index` as a key below the array's `c/`."""
        return "/".join([str(index)] + ["0"] * (len(self.shape) - 1))


class ChunkedArray:
    """An array in the store at `path`, whose chunks hold whole rows."""

    def __init__(self, path: str, name: str, array: Any) -> None:
        self.path, self.name, self._array = path, name, array
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype = np.dtype(array.dtype.numpy_dtype)
        self._chunk_rows: int = array.chunk_layout.read_chunk.shape[0]

    @classmethod
    def create(cls, path: str, spec: ArraySpec) -> "ChunkedArray":
        """Writes the array's own metadata, over that of an array that is there already, whose chunks are removed."""
        return cls(path, spec.name, _open(path, spec.name, spec, create=True, delete_existing=True))

    @classmethod
    def open(
        cls, path: str, array: ArraySpec | str, optional_chunks: bool = False, assume: bool = False
    ) -> "ChunkedArray":
        """Opens an array that should be as `array` has it, or one of which only the name is known.

        Reading a chunk that is not there is an error unless `optional_chunks` (then: the fill). Raises TransferError
        where the array is missing, or another than the one that is described; `assume` does not look.
        """
        spec = array if isinstance(array, ArraySpec) else None
        name = array.name if isinstance(array, ArraySpec) else array
        return cls(path, name, _open(path, name, spec, optional_chunks, open=True, assume_metadata=assume))

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Rows by a slice with a start and a stop, or by an array of indices; TransferError for a damaged chunk."""
        with readable(f"{self.path}/{self.name}", self.path):
            return np.asarray(answer(self._array[rows].read(), self.path, math.inf))

    def write(self, start: int, values: np.ndarray) -> Any:
        """Starts to write whole chunks from row `start`; `wait` on what it returns."""
        if start + len(values) == self.shape[0] and self.shape[0] % self._chunk_rows:
            # into an incomplete last chunk TensorStore would write what it reads there first, which may be damaged
            with readable(f"{self.path}/{self.name}", self.path):
                last = "/".join([str(self.shape[0] // self._chunk_rows)] + ["0"] * (len(self.shape) - 1))
                answer(self._array.kvstore.write(f"c/{last}", None), self.path)
        return self._array[start : start + len(values)].write(values)

    def wait(self, writing: Any) -> None:
        """Returns when the chunks are on the disk; OSError where it is full."""
        with readable(f"{self.path}/{self.name}", self.path):
            answer(writing, self.path, math.inf)


def _open(path: str, name: str, array: ArraySpec | None, optional_chunks: bool = False, **mode: Any) -> Any:
    spec: dict[str, object] = {
        "driver": "zarr3",
        "kvstore": kvstore_spec(path, f"{name}/"),
        # rows that happen to equal the fill value are rows all the same
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": optional_chunks,
    }
    if array is not None:
        spec["metadata"] = array.metadata
    with readable(f"{path}/{name}", path):
        return answer(ts.open(spec, **mode), path)
