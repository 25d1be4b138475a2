"""The files of a directory, local or on a bucket, through TensorStore, whose errors become ours."""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorstore as ts

from transfer.errors import TransferError
from transfer.runtime.files import paths
from transfer.runtime.files.bucket import wait_for

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
    return {"driver": "file", "path": f"{os.path.abspath(paths.expand(path))}/{below}"}


def open_kvstore(path: str) -> Any:
    """The directory `path` as TensorStore's key-value store."""
    return wait_for(ts.KvStore.open(kvstore_spec(path)), path)


class Directory:
    """The files of one store, as keys relative to its `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        with translated_errors(path):
            self._files = open_kvstore(path)

    def read(self, key: str) -> bytes | None:
        """What is at `key`, None where there is no such file."""
        with translated_errors(f"{self.path}/{key}"):
            found = wait_for(self._files.read(key), f"{self.path}/{key}")
        return found.value if found.state == "value" else None

    def write(self, key: str, value: bytes) -> None:
        """Writes `value` at `key`, whole or not at all, and on the disk when this returns."""
        with translated_errors(f"{self.path}/{key}"):
            wait_for(self._files.write(key, value), f"{self.path}/{key}")

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
        with translated_errors(self.path):
            found = wait_for(self._files.list(keys, strip_prefix_length=strip), self.path, math.inf)
        return {key.decode("utf-8", "surrogateescape") for key in found}

    def remove(self, key: str) -> None:
        """Removes the file at `key`, if it is there."""
        with translated_errors(f"{self.path}/{key}"):
            wait_for(self._files.write(key, None), f"{self.path}/{key}")

    def delete(self, prefix: str) -> None:
        """Removes every file below `prefix`."""
        with translated_errors(f"{self.path}/{prefix}"):
            wait_for(self._files.delete_range(_range(prefix)), f"{self.path}/{prefix}", math.inf)


def _range(prefix: str) -> Any:
    return ts.KvStore.KeyRange(prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1))


@contextmanager
def translated_errors(where: str, store: str | None = None) -> Iterator[None]:
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
