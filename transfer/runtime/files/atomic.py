"""Files that are there whole or not at all, and are never written over what is none of ours.

Written beside their place, flushed to the disk, then renamed.
"""

import io
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from etils import epath

from transfer.errors import TransferError, UsageError
from transfer.runtime.files import paths
from transfer.runtime.files.untrusted import error_summary

# What a run keeps in its workdir, goes on from and is read from later; its report, events and charts are made anew.
RUN_FILES = (
    "config.json",
    "result.json",
    "predictions.npz",
    "metrics.jsonl",
    "head.safetensors",
    "model.safetensors",
    "init_from.json",
    "shots.json",
    "status.json",
    "progress.jsonl",
)
# How many bytes at each end of a file tell what it is.
ENDS = 4096
Earlier = Callable[[bytes], bool]


@contextmanager
def writing(path: Any, shared: bool = False) -> Iterator[IO[bytes]]:
    """A stream whose contents become the file at `path`, local or `gs://`, at the end; removed if anything fails.

    Args:
        shared: whether others, on other machines too, may write the same file at the same time. What a killed process
            leaves then has a name of its own; else the next one writes over it.

    Raises:
        OSError: naming `path`, where the disk is full or the folder is not writable.
    """
    target = epath.Path(path)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part" if shared else f"{target.name}.part")
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


def append_lines(path: epath.Path, rows: Iterable[Any]) -> None:
    """Appends a line of JSON for each row; on a bucket, where nothing is appended, the file is written anew."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if "://" in str(path):
        write_text(path, (path.read_text() if path.exists() else "") + text)
        return
    with path.open("a") as stream:
        stream.write(text)


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


def check_output(path: Any, earlier: Earlier | None = None, what: str = "", flag: str = "output") -> None:
    """Raises UsageError where writing to `path` would lose something; worth asking before long work.

    Args:
        path: the file to make or replace, local or `gs://`.
        earlier: whether the bytes at the ends of a file (all of a small one) are those of an earlier output, which is
            written over, as an empty file is; None: whatever has that name is, as by `>` of a shell.
        what: such an output, for the message: "a report".
        flag: which the path is from.
    """
    target = paths.open_path(path)
    if target.name in RUN_FILES and any((target.parent / name).exists() for name in RUN_FILES if name != target.name):
        raise UsageError(f"--{flag}: {target} is a file of the run in {target.parent}; choose another name")
    if target.is_dir():
        raise UsageError(f"--{flag}: {target} is a folder; name a file")
    if earlier is None or not target.is_file():
        return
    with target.open("rb") as stream:
        content = stream.read(ENDS)
        size = stream.seek(0, 2)
        stream.seek(max(len(content), size - ENDS))
        content += stream.read()
    if content and not earlier(content):
        raise UsageError(
            f"--{flag}: {target} is there already and is not {what} made here; choose another name, or move it away"
        )
