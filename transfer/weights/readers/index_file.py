"""`model.safetensors.index.json` and `pytorch_model.bin.index.json`: one model's tensors in several files beside it."""

import json
import os
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import json_object, printable
from transfer.weights import readers
from transfer.weights.readers import HEAD_BYTES, Format
from transfer.weights.readers._described import Described

FORMAT = "index of shards"
MAP = "weight_map"
# Of a text that is none.
SHOWN = 60


def recognises(head: bytes, members: Collection[str] = ()) -> bool:
    """Whether a file starts as a JSON object does."""
    return head.lstrip().startswith(b"{") and b"\0" not in head


def is_index(path: Path) -> bool:
    """Whether the file is one: anything else that holds tensors has other bytes than text in it."""
    with path.open("rb") as stream:
        return recognises(stream.read(HEAD_BYTES))


def listed(path: Path) -> dict[str, set[str]]:
    """The names of the files, in their order, and which tensors each is to hold.

    Raises TransferError for a text that is no such index, or that leads out of its folder.
    """
    content = json_object(path)
    names = content.get(MAP)
    if not isinstance(names, dict) or not names:
        text = printable(json.dumps(content), SHOWN)
        what = "name the file that does, or if this is a server's answer, fetch it again"
        raise TransferError(f"a JSON text without {MAP!r} ({text}): it holds no weights; {what}")
    held: dict[str, set[str]] = {}
    for tensor, file in names.items():
        parts = PurePosixPath(file).parts if isinstance(file, str) else ()
        if not parts or "\\" in file or ":" in file or any(part in ("..", "/", "//") for part in parts):
            raise TransferError(f"refused: {printable(tensor)} lies in {printable(file)}, outside of its folder")
        held.setdefault("/".join(parts), set()).add(tensor)  # a/./b is a/b: no file is read twice
    return dict(sorted(held.items()))


def shards(path: Path) -> dict[str, set[str]]:
    """`listed`, and every one of them is there and holds tensors itself."""
    held = listed(path)
    for file in held:
        shard = path.parent / file
        if not os.path.isfile(shard):
            raise TransferError(f"{printable(file)}, which it lists, is not there")
        if is_index(shard):
            raise TransferError(f"{printable(file)}, which it lists, holds no tensors")
    return held


def read(path: Path) -> Described:
    """The tensors of all shards; each must be where the index says, and in no other shard."""
    joined = Described({})
    for file, tensors in shards(path).items():
        shard = readers.read(path.parent / file)
        problems = {"does not hold": tensors - shard.keys(), "holds a second": shard.keys() & joined.keys()}
        for text, names in problems.items():
            if names:
                raise TransferError(f"{printable(file)} {text} {printable(min(names))}")
        joined.update(shard)
        joined.says |= getattr(shard, "says", {})
    return joined


FORMATS = (Format(FORMAT, recognises, read),)
