"""`wds:PATTERN`: WebDataset tars, read where images lie in them; the members of a sample share their base name.

Listing a tar reads its headers and what is small, and of the images not a byte. Labels are in `.cls`, in `.json` under
"label", or in `.txt`, as numbers or names; those that are asked for by other names are in `.json`. Samples without one,
or without one image, are left out.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from transfer.data import formats
from transfer.data.shard_rows import BUFFER, NO_LABEL, Columns, cells, open_shards
from transfer.data.shards import Shard
from transfer.errors import TransferError
from transfer.runtime.files import tars

# Of a label that is read; JSON beside an image may have its whole story.
MOST_TEXT, TOO_LONG = 1 << 20, b"\xff"
# Which member of a sample has its label, the first that has one.
LABELS = ("cls", "json", "txt")


def rows(shard: Shard, columns: Columns) -> Iterator[dict[str, Any]]:
    """The samples of a tar: members with one base name, wherever they lie. Raises TransferError where it is damaged."""
    members: dict[bytes, tuple[list[dict[str, int]], dict[str, bytes]]] = {}
    damage, last = None, b""
    with shard.system.open(shard.path, "rb", block_size=BUFFER) as file:
        try:
            for name, place, size in tars.members(file, shard.size):
                folder, slash, last = name.removeprefix(b"./").rpartition(b"/")
                base, _, ending = last.partition(b".")
                suffix = ending.decode("latin1").lower()
                if not base or (suffix not in LABELS and f".{suffix}" not in formats.OF_IMAGES):
                    continue  # hidden, or of no use
                images, texts = members.setdefault(folder + slash + base, ([], {}))
                if suffix in LABELS:
                    texts[suffix] = file.read(size) if size <= MOST_TEXT else TOO_LONG
                else:
                    images.append({"place": place, "size": size})
        except TransferError as error:
            damage = error
        is_whole = tars.has_end(file, shard.size)
    for base, (images, texts) in members.items():
        shown = _shown(texts, columns)
        if len(images) != 1:
            shown = {"why": "with several images" if images else "without an image"}
        yield {"key": base, **shown, **(images[0] if images else {})}
    if damage:
        raise damage
    if not is_whole:
        yield {"key": last, "why": "or more cut off, as a tar without its end may be"}


def _shown(written: Mapping[str, bytes], columns: Columns) -> dict[str, Any]:
    """What a sample shows, or why that is not known, by the contents of its members that may say it."""
    why = NO_LABEL
    for suffix in filter(written.__contains__, LABELS if columns.shown == ("",) else ("json",)):
        try:
            value = json.loads(written[suffix]) if suffix == "json" else written[suffix].decode()
            named: Any = value if isinstance(value, dict) or columns.shown != ("",) else {"label": value}
            shown = cells(columns, [named.get(name or "label") for name in columns.shown])
        except (AttributeError, RecursionError, ValueError):
            why = f"whose .{suffix} is no label"
            continue
        if None not in shown.values():
            return shown
    return {"why": why}


open_split = functools.partial(open_shards, "wds", r"\.tar$", rows)
