"""`parquet:PATH`: Parquet files that hold encoded images, as Hugging Face's `datasets` writes them.

A Parquet file is unpacked a row group at a time, some hundred images or a thousand. Threads share the last ones, the
next one is unpacked ahead, and rows are read in their order, so that each is unpacked once.
"""

import bisect
import functools
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from transfer.data import arrow_columns
from transfer.data.shards import Shard, ShardSource, find, in_threads, labelled, named_labels
from transfer.data.source import Source, digest
from transfer.errors import TransferError
from transfer.runtime.files.untrusted import error_summary, prefix_errors, printable

# Of row groups that are kept; whatever they take, two for the batches that are being read, one ahead, one more.
MOST_BYTES, FEWEST = 512 << 20, 4


class Part(NamedTuple):
    """The columns, row groups and labels of one Parquet file, as they are listed."""

    columns: arrow_columns.Columns
    starts: list[int]  # the first row of each row group, and at the end the number of rows
    sizes: list[int]  # of the row groups, unpacked
    labels: tuple[Sequence[str], np.ndarray]


class ParquetSource(ShardSource):
    """Rows of Parquet files, known by their numbers in their file; the label -1 is none."""

    def __init__(self, name: str, shards: Sequence[Shard], parts: Sequence[Part]) -> None:
        self.parts = parts
        classes, labels = named_labels(name, [part.labels for part in parts], parts[0].columns.class_names)
        super().__init__(name, shards, [part.starts[-1] for part in parts], classes, labels)
        pool = ThreadPoolExecutor(2, thread_name_prefix="unpack")
        kept = MOST_BYTES // max(max(part.sizes, default=1) for part in parts)
        self._lock = threading.Lock()
        self._unpacking = functools.lru_cache(max(kept, FEWEST))(lambda *place: pool.submit(self._unpacked, *place))

    def key(self, shard: int, row: int) -> str:
        return f"{row:06d}"

    def read(self, row: int, limit: int | None = None) -> bytes:
        shard, place = self.place(row)
        starts = self.parts[shard].starts
        group = bisect.bisect_right(starts, place) - 1
        with self._lock:
            images = self._unpacking(shard, group)
            self._unpacking(*((shard, group + 1) if group + 2 < len(starts) else (shard + 1, 0)))
        data = images.result()[place - starts[group]].as_py()
        if data is None:
            raise ValueError("the file holds no bytes of it, at most a path")
        return data if limit is None else data[:limit]

    def _unpacked(self, shard: int, group: int) -> Any:
        """The images of a row group, a column of bytes; None behind the last one."""
        if shard == len(self.shards):
            return None
        try:
            with _opened(self.shards[shard]) as file:
                columns = self.parts[shard].columns
                return arrow_columns.images(columns, file.read_row_group(group, columns=[columns.image]))
        except Exception as error:  # of Arrow, and of the file system
            where = f"{self.shards[shard].path}: row group {group}"
            raise TransferError(f"{where} cannot be read ({error_summary(error)})") from error

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest(self, (np.array(part.sizes, "<i8").tobytes() for part in self.parts))


def open_split(path: str, split: str | None, columns: Mapping[str, str] | None = None) -> Source:
    """Opens the files of a split: a file, those below a folder, or those that a pattern names.

    Images are a column of bytes, or of `{bytes, path}`; labels are numbers, whose names the file may have, or text.

    Args:
        columns: the columns of images (`path`) and of labels (`label`), where what they are cannot be told.
    """
    name = f"parquet:{path}"
    shards = find(name, path, split, ".parquet")
    parts = in_threads(f"list {name}", lambda shard: _listed(shard, columns), shards)
    for shard, part in zip(shards, parts, strict=True):
        for here, there in zip(part.columns, parts[0].columns, strict=True):
            if here != there:
                what = f"{printable(str(here), 200)}, not {printable(str(there), 200)}"
                raise TransferError(f"{name}: {shard.name} has other columns than {shards[0].name}: {what}")
    return labelled(ParquetSource(name, shards, parts))


def _opened(shard: Shard) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(shard.path, filesystem=shard.system)


def _listed(shard: Shard, wanted: Mapping[str, str] | None) -> Part:
    """What a file holds; its labels are read, its images are not."""
    with prefix_errors(shard.path):
        try:
            with _opened(shard) as file:
                columns = arrow_columns.find(file.schema_arrow, wanted)
                labels = arrow_columns.labels(columns, file.read(columns=[columns.label]))
                groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        except TransferError:
            raise
        except Exception as error:  # of Arrow, and of the file system
            raise TransferError(f"no Parquet file, or a damaged one ({error_summary(error)})") from error
    starts = [0, *np.cumsum([group.num_rows for group in groups]).tolist()]
    return Part(columns, starts, [group.total_byte_size for group in groups], labels)
