"""Rows of shards: each shard is a table of its images, listed once, and the source that reads those with a label.

The columns of such a table, of Arrow, as far as a format needs them: where an image begins (`place`), its bytes or
those of what holds it (`size`), its name (`key`), why it is left out (`why`), and what it shows (`0`, `1`, …).
"""

import bisect
import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from etils import epath

from transfer.data import table_cells
from transfer.data.encoded import EncodedSource
from transfer.data.ids import LazyIds
from transfer.data.shards import Shard, find
from transfer.data.source import checked_labels, digest
from transfer.data.table_columns import TARGETS
from transfer.data.table_files import Table
from transfer.errors import TransferError, UsageError
from transfer.runtime import cache
from transfer.runtime.files import atomic
from transfer.runtime.files.untrusted import decompression_limit, prefix_errors, printable
from transfer.runtime.progress import NOTICEABLE_SECONDS, Progress

FORMAT = 3  # of the tables that are kept
BUFFER = 8 << 20  # on a bucket
AT_ONCE = 16  # shards that are listed side by side: on a bucket each is a wait
# In so many images it is worth to look for one size that all of them have.
MOST_LOOKED_INTO = 100_000
WHOLE_NUMBER = re.compile(r"-?[0-9]+")
KEPT = ("key", "place", "size")  # of a table, once labels are known
NO_LABEL = "without a label"


class Columns(NamedTuple):
    """What is taken of each row, the same in all shards of a data set."""

    image: str = ""
    says: str = "label"  # what `shown` say of it, a key of `TARGETS`
    shown: tuple[str, ...] = ("",)  # "": where a format usually has it
    types: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None  # of labels that are numbers; None: labels are what classes are called


def wanted(columns: Mapping[str, str] | None) -> Columns:
    """The columns that `config.data.columns` names. Raises UsageError where they say several things of an image."""
    named = columns or {}
    says = [each for each in TARGETS if each in named] or ["label"]
    shown = tuple(map(str.strip, named.get(says[0], "").split(",")))
    if len(says) > 1 or (says == ["label"] and len(shown) > 1):
        raise UsageError(f"config.data.columns: one of {', '.join(TARGETS)} is given, and label is one column")
    return Columns(named.get("path", ""), says[0], shown)


def cells(columns: Columns, values: Sequence[Any]) -> dict[str, Any]:
    """What the values of a row's columns say, None for nothing; ValueError for what is no label."""
    if columns.says == "label" and isinstance(values[0], bool | float | list | dict | bytes):
        raise ValueError
    texts = [None if value is None else str(value).strip() or None for value in values]
    said: dict[str, Any] = {str(number): text for number, text in enumerate(texts)}
    if columns.says == "labels" and len(values) == 1 and texts[0]:
        parts = values[0] if isinstance(values[0], list) else values
        if any(isinstance(part, list | dict) for part in parts):
            raise ValueError
        said["0"] = texts = [str(part) for part in parts if part is not None]
    encoded = "".join(filter(None, texts)).encode()  # a ValueError where half of a pair of surrogates is in JSON
    if b"\n" in encoded:
        raise ValueError
    return said


def listed(name: str, shards: Sequence[Shard], function: Callable[[Shard], Any]) -> Iterator[Any]:
    """The table that `function` makes of each shard, in order."""
    with (
        ThreadPoolExecutor(AT_ONCE) as pool,
        Progress(f"list {name}", len(shards), "shards", delay=NOTICEABLE_SECONDS) as progress,
    ):
        for table in pool.map(function, shards):
            yield table
            progress.update()


def kept(kind: str, rows: Callable[[Shard, Columns], Iterable[dict[str, Any]]], columns: Columns, shard: Shard) -> Any:
    """The table of a shard from the cache, or of its `rows`; it is kept where they could be read to their end."""
    import pyarrow
    from pyarrow import feather

    name = hashlib.sha256(shard.path.encode("utf-8", "surrogateescape")).hexdigest()
    path = epath.Path(cache.cache_dir() / "shards" / name)
    about = {b"about": repr((FORMAT, shard.stamp, kind, columns)).encode()}
    try:
        table = feather.read_table(path, memory_map=False)
        if table.schema.metadata == about:
            return table.combine_chunks()
    except (OSError, pyarrow.ArrowException):  # there is none, or a damaged one
        pass
    table = table_of(rows(shard, columns), columns)
    if table.schema.metadata:  # damage
        return table
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.writing(path, shared=True) as stream:
            feather.write_feather(table.replace_schema_metadata(about), stream)
    except OSError as error:
        logging.log_first_n(logging.WARNING, "%s: indexes of shards are not kept (%s)", 1, path.parent, error.strerror)
    return table


def table_of(rows: Iterable[dict[str, Any]], columns: Columns) -> Any:
    """The table of the rows of a shard, of which the metadata say why they end early if they do."""
    import pyarrow

    found, damage = list[dict[str, Any]](), {}
    try:
        found.extend(rows)  # where it fails, what came before is in the list
    except TransferError as error:
        damage = {"damage": str(error)}
    text, number = pyarrow.string(), pyarrow.int64()
    what = pyarrow.list_(text) if columns.says == "labels" and len(columns.shown) == 1 else text
    fields = {"key": pyarrow.binary(), "place": number, "size": number, "why": text}
    fields |= {str(place): what for place in range(len(columns.shown))}
    return pyarrow.Table.from_pylist(found, pyarrow.schema(fields, damage))


class ShardSource(EncodedSource):
    """The images of shards, one shard after another, which are best read in that order.

    Ids are `SHARD/KEY`: they stay when shards are added. Rows that are left out are counted in a warning.

    Args:
        skip_damage: whether damaged shards are read as far as they go; else they are a TransferError.
    """

    in_order = True

    def __init__(
        self, name: str, shards: Sequence[Shard], tables: Iterable[Any], columns: Columns, skip_damage: bool = False
    ) -> None:
        import pyarrow
        from pyarrow import compute

        self.name, self.shards, self.columns, self.target = name, shards, columns, TARGETS[columns.says]
        self.arrays, self._rows = list[dict[str, Any]](), list[np.ndarray]()  # of each shard; which of its rows
        said, left_out = [], dict[str, tuple[int, str]]()
        for shard, table in zip(shards, tables, strict=True):
            damage = (table.schema.metadata or {}).get(b"damage", b"").decode()
            if damage and not skip_damage:
                raise TransferError(f"{shard.path}: {damage}")
            if damage:
                self.leave_out(f"{shard.name} is read as far as it goes: {damage}")
            self.arrays.append({key: table[key] for key in KEPT if key in table.column_names})
            reasons = _reasons(table, columns)
            for why, count in (each.values() for each in reasons.drop_null().value_counts().to_pylist()):
                here = _id(shard, self.arrays[-1], compute.index(reasons, why).as_py())
                before, first = left_out.get(why, (0, here))
                left_out[why] = before + count, first
            self._rows.append(np.flatnonzero(reasons.is_null()))
            said.append(table.select(list(map(str, range(len(columns.shown))))).take(self._rows[-1]))
        self._starts: list[int] = np.cumsum([0, *map(len, self._rows)]).tolist()
        counts = "; ".join(f"{count} {why} (first: {printable(first)})" for why, (count, first) in left_out.items())
        ids = LazyIds(self._starts[-1], self._id)
        if not len(ids):
            raise TransferError(f"{name}: there is no image with a label: {counts or 'it is empty'}")
        if counts:
            self.leave_out(f"left out: {counts}")
        super().__init__(name, *self._labels(pyarrow.concat_tables(said), ids), ids)

    def _labels(self, said: Any, ids: Sequence[str]) -> tuple[Sequence[str], np.ndarray]:
        """Class names and labels: a class each, sorted, numbers by their value; the rest as a table says it."""
        columns = self.columns
        if columns.says != "label":
            of_rows = {shown: cells.to_pylist() for shown, cells in zip(columns.shown, said.columns, strict=True)}
            lines: Any = ids  # by which errors name them
            table = Table(of_rows, lines, decompression_limit(sum(shard.size for shard in self.shards)))
            with prefix_errors(self.name):
                return table_cells.read(table, columns.says, columns.shown, np.arange(len(ids)))
        class_names, labels = columns.class_names, said["0"]
        if class_names is None:
            packed = labels.dictionary_encode().combine_chunks()
            names = list(map(str, packed.dictionary.to_pylist()))
            class_names = tuple(sorted(names, key=int if all(map(WHOLE_NUMBER.fullmatch, names)) else None))
            number = {class_name: label for label, class_name in enumerate(class_names)}
            labels = np.array([number[name] for name in names])[packed.indices]
        return class_names, checked_labels(labels, len(ids), self.name, len(class_names))

    def place(self, row: int) -> tuple[int, int]:
        """The number of the shard that has a row, and the row in it."""
        number = bisect.bisect_right(self._starts, row) - 1
        return number, int(self._rows[number][row - self._starts[number]])

    def _id(self, row: int) -> str:
        number, place = self.place(row)
        return _id(self.shards[number], self.arrays[number], place)

    def read(self, row: int, limit: int | None = None) -> bytes:
        number, place = self.place(row)
        start, size = (self.arrays[number][name][place].as_py() for name in ("place", "size"))
        return self.shards[number].read(start, size if limit is None else min(size, limit))

    def shared_shape(self, indices: Iterable[int]) -> tuple[int, int, int] | None:
        """None where finding out would take reading too much beforehand."""
        return super().shared_shape(indices) if len(self) <= MOST_LOOKED_INTO else None

    def file_stamps(self, rows: Sequence[int]) -> np.ndarray:
        stamps = np.array([shard.stamp for shard in self.shards], np.int64)
        return stamps[np.searchsorted(self._starts, rows, "right") - 1]

    @functools.cached_property
    def fingerprint(self) -> str:
        of_shards = zip(self.arrays, self._rows, strict=True)
        return digest(self, (np.asarray(arrays["size"].take(rows), "<i8").tobytes() for arrays, rows in of_shards))


def open_shards(
    scheme: str,
    ending: str,
    rows: Callable[[Shard, Columns], Iterable[dict[str, Any]]],
    path: str,
    split: str | None,
    columns: Mapping[str, str] | None = None,
    skip_damage: bool = False,
    kind: type[ShardSource] = ShardSource,
) -> ShardSource:
    """Opens the shards of a split, a file, those below a folder, or those that a pattern names, by their `rows`.

    Args:
        columns: what says where the image is (`path`) and its class (`label`), several (`labels`) or numbers (`value`).
        skip_damage: whether damaged shards are read as far as they go; else they are a TransferError.
    """
    name, taken = f"{scheme}:{path}", wanted(columns)
    shards = find(name, path, split, ending)
    return kind(name, shards, listed(name, shards, functools.partial(kept, scheme, rows, taken)), taken, skip_damage)


def _reasons(table: Any, columns: Columns) -> Any:
    """Why each row of a table is left out, null where it is not."""
    import pyarrow
    from pyarrow import compute

    known = functools.reduce(compute.and_, [table[str(place)].is_valid() for place in range(len(columns.shown))])
    reasons = compute.if_else(known, pyarrow.scalar(None, pyarrow.string()), NO_LABEL)
    return compute.coalesce(table["why"], reasons) if "why" in table.column_names else reasons


def _id(shard: Shard, arrays: Mapping[str, Any], row: int) -> str:
    key = arrays["key"][row].as_py() if "key" in arrays else None
    name = f"{row:06d}" if key is None else key.decode("utf-8", "surrogateescape")
    return f"{shard.name}/{name}" if shard.name else name
