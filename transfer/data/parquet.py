"""`parquet:PATH`: Parquet files that hold encoded images, as Hugging Face's `datasets` writes them.

A Parquet file is unpacked a row group at a time, some hundred images or a thousand. Threads share the last ones, the
next one is unpacked ahead, and rows are read in their order, so that each is unpacked once.
"""

import bisect
import contextlib
import functools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from transfer.data import arrow_columns
from transfer.data.shard_rows import Columns, ShardSource, listed
from transfer.data.shards import Shard, find
from transfer.data.source import digest
from transfer.errors import TransferError
from transfer.runtime.files.untrusted import error_summary, prefix_errors, printable

# Of row groups that are kept; whatever they take, two for the batches that are being read, one ahead, one more.
MOST_BYTES, FEWEST = 512 << 20, 4


class ParquetSource(ShardSource):
    """Rows of Parquet files, known by their numbers in their file."""

    def __init__(self, name: str, shards: Sequence[Shard], tables: Iterable[Any], columns: Columns) -> None:
        super().__init__(name, shards, tables, columns)
        sizes = [arrays["size"] for arrays in self.arrays]
        self.starts: list[list[int]] = [np.cumsum([0, *map(len, each.chunks)]).tolist() for each in sizes]
        largest = max(int(np.max(each, initial=1)) for each in sizes)
        pool = ThreadPoolExecutor(2, thread_name_prefix="unpack")
        self._lock = threading.Lock()
        kept = functools.lru_cache(max(MOST_BYTES // largest, FEWEST))
        self._unpacking = kept(lambda *place: pool.submit(self._unpacked, *place))

    def read(self, row: int, limit: int | None = None) -> bytes:
        shard, place = self.place(row)
        starts = self.starts[shard]
        group = bisect.bisect_right(starts, place) - 1
        with self._lock:
            images = self._unpacking(shard, group)
            self._unpacking(*((shard, group + 1) if group + 2 < len(starts) else (shard + 1, 0)))
        image = images.result()[place - starts[group]].as_py()
        data = image["bytes"] if isinstance(image, dict) else image
        if data is None:
            raise ValueError("the file holds no bytes of it, at most a path")
        return data[:limit]

    @functools.cached_property
    def fingerprint(self) -> str:
        of_files = ([group[0].as_py() for group in arrays["size"].chunks if len(group)] for arrays in self.arrays)
        return digest(self, (np.array(sizes, "<i8").tobytes() for sizes in of_files))

    def _unpacked(self, shard: int, group: int) -> Any:
        """The images of a row group, a column; None behind the last one."""
        if shard == len(self.shards):
            return None
        with _opened(self.shards[shard]) as file:
            return file.read_row_group(group, columns=[self.columns.image])[self.columns.image]


def open_split(path: str, split: str | None, columns: Mapping[str, str] | None = None) -> ParquetSource:
    """Opens the files of a split: a file, those below a folder, or those that a pattern names.

    Images are a column of bytes, or of `{bytes, path}`; labels are numbers, whose names the file may have, or text.

    Args:
        columns: those of images (`path`) and of a class (`label`), several (`labels`) or numbers (`value`).
    """
    name = f"parquet:{path}"
    shards = find(name, path, split, r"\.parquet$")
    with _opened(shards[0]) as file:
        first = arrow_columns.find(file.schema_arrow, columns)
    return ParquetSource(name, shards, listed(name, shards, functools.partial(_table, columns, first)), first)


@contextlib.contextmanager
def _opened(shard: Shard) -> Iterator[Any]:
    import pyarrow.parquet

    with prefix_errors(shard.path):
        try:
            with pyarrow.parquet.ParquetFile(shard.path, filesystem=shard.system) as file:
                yield file
        except TransferError:
            raise
        except Exception as error:  # of Arrow, and of the file system
            raise TransferError(f"no Parquet file, or a damaged one ({error_summary(error)})") from error


def _table(given: Mapping[str, str] | None, first: Columns, shard: Shard) -> Any:
    """The table of a file, whose labels are read and images are not; a chunk of its sizes is a row group."""
    import pyarrow

    with _opened(shard) as file:
        for here, there in zip(arrow_columns.find(file.schema_arrow, given), first, strict=True):
            if here != there:
                what = f"{printable(str(here), 200)}, not {printable(str(there), 200)}"
                raise TransferError(f"has other columns than the first file: {what}")
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        sizes = [np.full(group.num_rows, group.total_byte_size) for group in groups]
        rows = file.read(columns=list(first.shown))
        return arrow_columns.table(first, rows, pyarrow.chunked_array(sizes, pyarrow.int64()))
