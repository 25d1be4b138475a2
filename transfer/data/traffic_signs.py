"""`pickle:PATH`: the traffic-sign pickle, `{'features': uint8 NHWC, 'labels'}`, alone or beside its splits."""

import io
import os
from typing import Any

from transfer.data.source import ArraySource, Source
from transfer.errors import TransferError, UsageError
from transfer.runtime.files import archives
from transfer.runtime.files.pickles import load_arrays
from transfer.runtime.files.untrusted import prefix_errors, printable

ENDINGS = (".p", ".pkl", ".pickle")


def open_split(path: str, split: str | None) -> Source:
    """A `.p` file, or the file `SPLIT.p` of a folder or zip; arrays beside features and labels are left alone.

    Raises UsageError for a split that is not there, TransferError for anything but arrays in the pickle and for
    features and labels of different lengths.
    """
    name = f"pickle:{path}"
    if os.path.isdir(path):
        content = _from_folder(name, path, split)
    elif _is_zip(path):
        content = _from_zip(name, path, split)
    elif split:
        raise UsageError(f"{name}: one pickle has no splits; give the folder that holds {split}.p")
    else:
        with open(path, "rb") as stream:
            content = load_arrays(stream, name)
    return _source(name, content, f"{split}/" if split else "")


def _is_zip(path: str) -> bool:
    with open(path, "rb") as stream:
        return stream.read(2) == b"PK"  # which is no opcode of a pickle with arrays


def _from_folder(name: str, path: str, split: str | None) -> Any:
    file = _choose(name, os.listdir(path), split)
    with open(os.path.join(path, file), "rb") as stream:
        return load_arrays(stream, f"{name}: {file}")


def _from_zip(name: str, path: str, split: str | None) -> Any:
    with open(path, "rb") as stream, prefix_errors(name), archives.open_zip(stream) as archive:
        members = {os.path.basename(m): m for m in archive.members if not m.startswith("__MACOSX")}
        file = _choose("a zip", list(members), split)
        content = archive.read(members[file])
    return load_arrays(io.BytesIO(content), f"{name}: {printable(file)}")


def _choose(name: str, files: list[str], split: str | None) -> str:
    splits = {os.path.splitext(f)[0]: f for f in sorted(files) if f.lower().endswith(ENDINGS)}
    if split in splits:
        return splits[split]
    problem = f"no split {split!r}" if split else "needs a split"
    raise UsageError(f"{name}: {problem}; there is {', '.join(map(printable, splits)) or 'no pickle'}")


def _source(name: str, content: Any, prefix: str) -> Source:
    fields = {}
    for key in ("features", "labels"):
        for spelling in (key, key.encode()):
            if isinstance(content, dict) and spelling in content:
                fields[key] = content[spelling]
    if len(fields) < 2:
        raise TransferError(f"{name}: expected a dict with 'features' and 'labels'")
    return ArraySource(name, fields["features"], fields["labels"], prefix=prefix)
