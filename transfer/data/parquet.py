"""`parquet:PATH`: Parquet files that hold encoded images, as Hugging Face's `datasets` writes them.

A Parquet file is unpacked a row group at a time, some hundred images or a thousand: threads share those that are kept,
and rows are read in their order, so that each group is unpacked once.
"""

import bisect
import collections
import functools
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np

from transfer.data import arrow_columns
from transfer.data.arrow_columns import Columns
from transfer.data.shards import Shard, ShardSource, find, in_threads, labelled, named_labels
from transfer.data.source import Source, digest
from transfer.errors import TransferError
from transfer.runtime.files.untrusted import error_summary, prefix_errors, printable

# Of row groups that are kept; the last two are, whatever they take: a batch may need both.
MOST_BYTES, FEWEST = 512 << 20, 2


class Part(NamedTuple):
    """What is listed of a file."""

    columns: Columns
    starts: list[int]  # the first row of each row group, and at the end the number of rows
    sizes: bytes  # of the row groups, unpacked
    labels: tuple[Sequence[str], np.ndarray]


class ParquetSource(ShardSource):
    """Rows of Parquet files, known by their numbers in their file; the label -1 is none."""

    def __init__(self, name: str, shards: Sequence[Shard], parts: Sequence[Part]) -> None:
        self.parts, self.columns = parts, parts[0].columns
        classes, labels = named_labels(name, [part.labels for part in parts], self.columns.class_names)
        super().__init__(name, shards, [part.starts[-1] for part in parts], classes, labels)
        self._groups = Kept(self._unpacked)

    def key(self, shard: int, row: int) -> str:
        return f"{row:06d}"

    def read(self, row: int, limit: int | None = None) -> bytes:
        shard, place = self.place(row)
        starts = self.parts[shard].starts
        group = bisect.bisect_right(starts, place) - 1
        data = self._groups.get((shard, group))[place - starts[group]].as_py()
        if data is None:
            raise ValueError("the file holds no bytes of it, at most a path")
        return data if limit is None else data[:limit]

    def _unpacked(self, place: tuple[int, int]) -> Any:
        """The images of a row group, an Arrow array of bytes."""
        import pyarrow.compute

        shard, group = self.shards[place[0]], place[1]
        try:
            with _opened(shard) as file:
                column = file.read_row_group(group, columns=[self.columns.image]).column(0)
        except Exception as error:  # of Arrow, and of the file system
            raise TransferError(f"{shard.path}: row group {group} cannot be read ({error_summary(error)})") from error
        return pyarrow.compute.struct_field(column, "bytes") if self.columns.bytes_inside else column

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest(self, (part.sizes for part in self.parts))


class Kept:
    """The last results of a function, each made once, whichever thread asks first; as many as memory is meant for."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._results: collections.OrderedDict[Hashable, Future[Any]] = collections.OrderedDict()

    def get(self, key: Hashable) -> Any:
        """`make(key)`, an array with `nbytes`."""
        with self._lock:
            kept = self._results.pop(key, None)
            result = self._results[key] = kept or Future()
        if kept is None:
            try:
                result.set_result(self._make(key))
            except BaseException as error:
                result.set_exception(error)
            self._forget()
        return result.result()

    def _forget(self) -> None:
        with self._lock:
            sizes = {key: _size(result) for key, result in self._results.items()}
            taken = sum(sizes.values())
            for key in list(sizes)[:-FEWEST]:
                if taken > MOST_BYTES:
                    del self._results[key]  # whoever waits for it has it
                    taken -= sizes[key]


def _size(result: Future[Any]) -> int:
    return result.result().nbytes if result.done() and not result.exception() else 0


def open_split(path: str, split: str | None, columns: Mapping[str, str] | None = None) -> Source:
    """Opens the files of a split: a file, those below a folder, or those that a pattern names.

    Images are a column of bytes, or of `{bytes, path}`; labels are numbers, whose names the file may have, or text.

    Args:
        columns: the columns of images (`path`) and of labels (`label`), where what they are cannot be told.
    """
    name = f"parquet:{path}"
    shards = find(name, path, split, (".parquet",))
    parts = in_threads(f"list {name}", lambda shard: _listed(shard, columns), shards)
    for shard, part in zip(shards, parts, strict=True):
        if part.columns != parts[0].columns:
            differing = [pair for pair in zip(part.columns, parts[0].columns, strict=True) if pair[0] != pair[1]][0]
            here, there = (printable(str(value), 200) for value in differing)
            raise TransferError(f"{name}: {shard.name} has other columns than {shards[0].name}: {here}, not {there}")
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
                labels = arrow_columns.codes(columns, file.read(columns=[columns.label]).column(0))
                groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        except TransferError:
            raise
        except Exception as error:  # of Arrow, and of the file system
            raise TransferError(f"no Parquet file, or a damaged one ({error_summary(error)})") from error
    starts = np.cumsum([0, *(group.num_rows for group in groups)]).tolist()
    return Part(columns, starts, np.array([group.total_byte_size for group in groups], "<i8").tobytes(), labels)
