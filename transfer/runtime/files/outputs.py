"""Where commands write: never over a run's own files, nor over a file that is there already and is none of theirs."""

from collections.abc import Callable
from typing import Any

from transfer.errors import UsageError
from transfer.runtime.files import paths

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
)
# How many bytes at each end of a file tell what it is.
ENDS = 4096
Earlier = Callable[[bytes], bool]


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
