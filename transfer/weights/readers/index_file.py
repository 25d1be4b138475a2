"""`model.safetensors.index.json` and `pytorch_model.bin.index.json`: one model's tensors in several files beside it."""

import json
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import error_summary, prefix_errors, printable
from transfer.weights import readers
from transfer.weights.readers import HEAD_BYTES, Format
from transfer.weights.readers._described import Described

FORMAT = "index of shards"
MAP = "weight_map"


def recognises(head: bytes, members: Collection[str] = ()) -> bool:
    """Whether a file starts as a JSON object does."""
    return head.lstrip().startswith(b"{") and b"\0" not in head


def is_index(path: Path) -> bool:
    """Whether the file is one: anything else that holds tensors has other bytes than text in it."""
    with path.open("rb") as stream:
        return recognises(stream.read(HEAD_BYTES))


def shards(path: Path) -> dict[str, set[str]]:
    """The names of the files, in their order, and which tensors each is to hold.

    Raises TransferError for a text that is no such index, or that leads out of its folder.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise TransferError(f"a damaged {FORMAT} ({error_summary(error)})") from error
    names = content.get(MAP) if isinstance(content, dict) else None
    if not isinstance(names, dict) or not names:
        raise TransferError(f"a JSON text without {MAP!r}: it holds no weights; name the file that does")
    held: dict[str, set[str]] = {}
    for tensor, file in names.items():
        parts = PurePosixPath(file).parts if isinstance(file, str) else ()
        if not parts or "\\" in file or ":" in file or any(part in ("..", "/") for part in parts):
            raise TransferError(f"refused: {printable(tensor)} lies in {printable(file)}, outside of its folder")
        held.setdefault(file, set()).add(tensor)
    return dict(sorted(held.items()))


def whole(path: Path) -> dict[str, set[str]]:
    """`shards`, and every one of them is there. Raises TransferError, with the path in front."""
    with prefix_errors(path):
        listed = shards(path)
        for file in listed:
            if not (path.parent / file).is_file():
                raise TransferError(f"{printable(file)}, which it lists, is not there")
            if is_index(path.parent / file):
                raise TransferError(f"{printable(file)}, which it lists, holds no tensors")
    return listed


def read(path: Path) -> Described:
    """The tensors of all shards; each must be where the index says, and in no other shard."""
    joined = Described({})
    for file, tensors in shards(path).items():
        shard = readers.read(path.parent / file)
        for names, text in ((tensors - {*shard}, "does not hold"), ({*shard} & {*joined}, "holds a second")):
            if names:
                raise TransferError(f"{printable(file)} {text} {printable(min(names))}")
        joined.update(shard)
        joined.says |= getattr(shard, "says", {})
    return joined


FORMATS = (Format(FORMAT, recognises, read),)
