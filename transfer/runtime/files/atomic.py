"""Files that are there whole or not at all: written beside their place, flushed to the disk, then renamed."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from etils import epath

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import error_summary


@contextmanager
def writing(path: Any, shared: bool = False) -> Iterator[IO[bytes]]:
    """A stream whose contents become the file at `path`, local or `gs://`, at the end; removed if anything fails.

    Args:
        shared: whether other processes may write the same file at the same time. What a killed process leaves then
            has a name of its own; else the next one writes over it.

    Raises:
        OSError: naming `path`, where the disk is full or the folder is not writable.
    """
    target = epath.Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part" if shared else f"{target.name}.part")
    try:
        with part.open("wb") as stream:
            yield stream
            stream.flush()
            if isinstance(stream, io.BufferedWriter):  # a local file: on the disk before the name appears
                os.fsync(stream.fileno())
        part.replace(target)
    except BaseException as error:
        part.unlink(missing_ok=True)
        # a write that failed names no file
        if isinstance(error, OSError) and error.filename in (None, str(part), os.fspath(part)):
            error.filename, error.filename2 = str(target), None
        raise


def write_text(path: Any, text: str) -> None:
    """Writes a small file of UTF-8, which no other process writes; names of files that are not keep their bytes."""
    with writing(path) as stream:
        stream.write(text.encode("utf-8", "surrogateescape"))


def read_json(path: epath.Path) -> dict[str, Any]:
    """The object in a small JSON file of a workdir; TransferError, naming the file, where it was damaged since."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        problem = f"is damaged, it holds no JSON ({error_summary(error)}); restore or delete it"
        raise TransferError(f"{path} {problem}") from error
    if not isinstance(content, dict):
        raise TransferError(f"{path} is damaged, it holds no settings; restore or delete it")
    return content
