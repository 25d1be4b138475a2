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
from transfer.runtime.files.paths import open_kvstore, wait_for

# Written by TensorStore into the messages of its file driver.
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")
_FILE_NAME = re.compile(r'local file "([^"]+)"')
# Its status codes as Python exceptions, all of them built-in ones.
_TENSORSTORE_ERRORS = (ValueError, RuntimeError, NotImplementedError, OSError)
# The length of a message, which may show what a damaged file holds.
_MAX_MESSAGE = 500


class Directory:
    """The files of one store, as keys relative to its `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        with translated_errors(path):
            self._files = open_kvstore(path)

    def read(self, key: str) -> bytes | None:
        """The contents of the file at `key`, None where there is no such file."""
        result = self._run(self._files.read, key)
        return result.value if result.state == "value" else None

    def write(self, key: str, value: bytes | None) -> None:
        """Writes `value` at `key`, whole or not at all, and on the disk when this returns; None removes the file."""
        self._run(self._files.write, key, value)

    def write_json(self, key: str, value: object) -> None:
        """Writes `value` at `key` as JSON, as `write` does."""
        self.write(key, json.dumps(value, indent=1).encode())

    def remove(self, key: str) -> None:
        """Removes the file at `key`, if it is there."""
        self.write(key, None)

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
            listing = wait_for(self._files.list(keys, strip_prefix_length=strip), self.path, math.inf)
        return {key.decode("utf-8", "surrogateescape") for key in listing}

    def delete(self, prefix: str) -> None:
        """Removes every file below `prefix`."""
        with translated_errors(f"{self.path}/{prefix}"):
            wait_for(self._files.delete_range(_range(prefix)), f"{self.path}/{prefix}", math.inf)

    def _run(self, operation: Any, key: str, *values: Any) -> Any:
        with translated_errors(f"{self.path}/{key}"):
            return wait_for(operation(key, *values), f"{self.path}/{key}")


def _range(prefix: str) -> Any:
    return ts.KvStore.KeyRange(prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1))


@contextmanager
def translated_errors(where: str, store: str | None = None) -> Iterator[None]:
    """Turns what TensorStore raises into an OSError where the operating system refused, else a TransferError.

    `store`: the feature store that the file belongs to, which can be repaired.
    """
    try:
        yield
    except _TENSORSTORE_ERRORS as error:
        raise _translated(str(error), where, f"; {repair_hint(store)}" if store else "") from error


def _translated(text: str, where: str, hint: str) -> Exception:
    message, name = text.partition(" [tensorstore_spec=")[0][:_MAX_MESSAGE], _FILE_NAME.search(text)
    file = name[1] if name else where
    if code := _OS_ERROR.search(text):
        return OSError(int(code[1]), os.strerror(int(code[1])), file)
    if message.startswith("NOT_FOUND"):
        return TransferError(f"{file} is missing from the store{hint}")
    if message.startswith("DATA_LOSS") or (name and message.startswith("FAILED_PRECONDITION")):
        return TransferError(f"{file} is damaged ({message.rpartition(name[0] + ': ' if name else ': ')[2]}){hint}")
    if hint and message.startswith("FAILED_PRECONDITION"):
        return TransferError(f"{where}/zarr.json is damaged ({message.partition('driver: ')[2]}){hint}")
    return TransferError(f"{where}: {message}")


def repair_hint(store: str) -> str:
    """Advice about a damaged store."""
    return f"`python -m transfer features verify {store} --repair` redoes what is damaged"
