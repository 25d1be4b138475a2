"""`pickle:PATH`: the traffic-sign pickle, `{'features': uint8 NHWC, 'labels'}`, alone or beside its splits."""

import io
import os
from collections.abc import Iterable

from transfer.data.source import ArraySource, Source, pickled_entry
from transfer.errors import TransferError, UsageError
from transfer.runtime.files import archives
from transfer.runtime.files.pickles import load_arrays
from transfer.runtime.files.untrusted import prefix_errors, printable

ENDINGS = (".p", ".pkl", ".pickle")


def open_split(path: str, split: str | None) -> Source:
    """Opens a `.p` file, or the file `SPLIT.p` of a folder or zip; arrays beside features and labels are left alone.

    Raises UsageError for a split that is not there, TransferError for anything but arrays in the pickle and for
    features and labels of different lengths.
    """
    name = f"pickle:{path}"
    if os.path.isdir(path):
        file = _choose(name, os.listdir(path), split)
        with open(os.path.join(path, file), "rb") as stream:
            content = load_arrays(stream, f"{name}: {file}")
    else:
        with open(path, "rb") as stream:
            is_zip = stream.read(2) == b"PK"  # which is no opcode of a pickle with arrays
            if split and not is_zip:
                raise UsageError(f"{name}: one pickle has no splits; give the folder that holds {split}.p")
            stream.seek(0)
            if is_zip:
                with prefix_errors(name), archives.open_zip(stream) as archive:
                    members = {os.path.basename(m): m for m in archive.members if not m.startswith("__MACOSX")}
                    file = _choose("a zip", members, split)
                    pickled = archive.read(members[file])
                content = load_arrays(io.BytesIO(pickled), f"{name}: {printable(file)}")
            else:
                content = load_arrays(stream, name)
    features, labels = (pickled_entry(content, key) for key in ("features", "labels"))
    if features is None or labels is None:
        raise TransferError(f"{name}: expected a dict with 'features' and 'labels'")
    return ArraySource(name, features, labels, prefix=f"{split}/" if split else "")


def _choose(name: str, files: Iterable[str], split: str | None) -> str:
    splits = {os.path.splitext(file)[0]: file for file in sorted(files) if file.lower().endswith(ENDINGS)}
    if split in splits:
        return splits[split]
    problem = f"no split {split!r}" if split else "needs a split"
    raise UsageError(f"{name}: {problem}; there is {', '.join(map(printable, splits)) or 'no pickle'}")
