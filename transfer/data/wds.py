"""`wds:PATTERN`: WebDataset tars, read where images lie in them; the members of a sample share their base name."""

import functools
from collections.abc import Sequence

import numpy as np

from transfer.data.layout import listed
from transfer.data.shards import Shard, ShardSource, find, in_threads, named_labels
from transfer.data.source import digest
from transfer.data.tar_index import TarIndex, index_of
from transfer.errors import TransferError
from transfer.runtime.files.untrusted import printable


class WdsSource(ShardSource):
    """Samples of tars, known by their base names."""

    def __init__(self, name: str, shards: Sequence[Shard], indexes: Sequence[TarIndex]) -> None:
        classes, labels = named_labels(name, [(index.classes, index.codes) for index in indexes])
        super().__init__(name, shards, [len(index.ends) for index in indexes], classes, labels)
        self.indexes = indexes

    def key(self, shard: int, row: int) -> str:
        return self.indexes[shard].key(row)

    def read(self, row: int, limit: int | None = None) -> bytes:
        shard, place = self.place(row)
        index, size = self.indexes[shard], int(self.indexes[shard].sizes[place])
        return self.shards[shard].read(int(index.offsets[place]), size if limit is None else min(size, limit))

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest(self, (np.ascontiguousarray(index.sizes, "<i8").tobytes() for index in self.indexes))


def open_split(path: str, split: str | None) -> WdsSource:
    """Opens the tars of a split: a file, those below a folder, or those that a pattern names.

    Labels are in `.cls`, in `.json` under "label", or in `.txt`, as numbers or names. Samples without one, or without
    one image, are left out, and counted in a warning. Raises TransferError where none is left, and for damaged tars.
    """
    name = f"wds:{path}"
    shards = find(name, path, split, ".tar")
    indexes = in_threads(f"list {name}", index_of, shards)
    left_out: dict[str, tuple[int, str]] = {}
    for shard, index in zip(shards, indexes, strict=True):
        for why, (count, key) in index.left_out.items():
            before, first = left_out.get(why, (0, f"{shard.name}/{key}"))
            left_out[why] = before + count, first
    counts = "; ".join(f"{count} {why} (first: {printable(key)})" for why, (count, key) in left_out.items())
    source = WdsSource(name, shards, indexes)
    if not len(source):
        raise TransferError(f"{name}: no sample has one image and a label: {counts or 'there are none'}")
    if unended := [shard.name for shard, index in zip(shards, indexes, strict=True) if not index.whole]:
        source.leave_out(f"without the end of a tar, maybe cut off: {listed(unended)}")
    if counts:
        source.leave_out(f"samples left out: {counts}")
    return source
