"""Shards: data sets as files of many images each, local or on a bucket; which of them belong to a split.

A split is a set of shards whose names begin alike: `train-00000-of-00005.parquet`, `imagenet-train-000012.tar` and
`train/000012.tar` are of `train`. A pattern of names (`train-{000000..000145}.tar`, `*.parquet`) is a split, too.
"""

import abc
import bisect
import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from braceexpand import braceexpand

from transfer.data.encoded import EncodedSource
from transfer.data.ids import LazyIds
from transfer.data.layout import listed, no_split
from transfer.data.source import Source, checked_labels, select
from transfer.errors import TransferError, UsageError
from transfer.runtime.distribution import install_hint
from transfer.runtime.files import paths
from transfer.runtime.files.untrusted import error_summary, prefix_errors, printable
from transfer.runtime.progress import NOTICEABLE_SECONDS, Progress

SIGNS = re.compile(r"[*?\[{]")  # of a pattern
# What tells the shards of a set apart: -000012, -00000-of-00005, and the hash that some versions of `datasets` add.
NUMBER = re.compile(r"/?([-_.]?\d+([-_.]of[-_.]\d+)?(-[0-9a-f]{16})?)?$")
WHOLE_NUMBER = re.compile(r"-?[0-9]+")
AT_ONCE = 16  # shards that are listed side by side: on a bucket each is a wait
# In so many images it is worth to look for one size that all of them have.
MOST_LOOKED_INTO = 100_000
Part = TypeVar("Part")


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file: its name below what was asked for, and what it was when it was found."""

    name: str
    path: str
    size: int
    stamp: int  # another one once the file was written to
    system: Any  # of fsspec

    def read(self, start: int, size: int) -> bytes:
        """A stretch of its bytes; from any thread. TransferError where it fails: that is no image to be skipped."""
        try:
            data = self.system.cat_file(self.path, start, start + size)
        except Exception as error:  # each file system has its own
            raise TransferError(f"{self.path}: cannot be read ({error_summary(error)})") from error
        if len(data) != size:
            raise TransferError(f"{self.path}: has become shorter since it was listed; run the same command again")
        return data


def find(name: str, path: str, split: str | None, ending: str) -> list[Shard]:
    """The shards of a split, sorted: of all below a folder, or of those that a path or a pattern names.

    Raises UsageError for a split that is not there or is none alone, TransferError where files are missing.
    """
    if split and (SIGNS.search(split) or split.endswith(ending)):
        path, split = f"{path.rstrip('/')}/{split}", None
    with prefix_errors(name):
        system, root = _system(path)
        is_folder = system.isdir(root)
        if is_folder:
            top, files = root.rstrip("/"), system.find(root, detail=True)
        else:
            top, files = SIGNS.split(root)[0].rpartition("/")[0], _matching(system, root)
        shards = [
            Shard(file[len(top) + 1 :], file, about["size"], _stamp(about), system)
            for file, about in sorted(files.items())
            if file.endswith(ending) and not any(part.startswith(".") for part in file[len(top) :].split("/"))
        ]
        if not shards:
            raise TransferError(f"there are no {ending} files")
    return _of_split(name, shards, split) if split or is_folder else shards


def _system(path: str) -> tuple[Any, str]:
    """The file system of fsspec that has `path`, and the path in it."""
    import fsspec

    scheme = path.partition("://")[0]
    if scheme == "gs":
        paths.open_path(path)  # says within seconds what keeps the bucket from being read
    try:
        return fsspec.url_to_fs(path)
    except (ImportError, ValueError) as error:
        hint = f": {install_hint('s3')}" if scheme == "s3" else ""
        raise TransferError(f"{scheme}:// cannot be read here ({error_summary(error)}){hint}") from error


def _matching(system: Any, pattern: str) -> dict[str, Any]:
    """What a path or a pattern names, and what is known of it."""
    try:
        wanted = list(braceexpand(pattern, escape=False))
    except ValueError as error:
        raise UsageError(f"{error}") from error
    found = [system.glob(each, detail=True) for each in wanted]
    if missing := [each for each, matches in zip(wanted, found, strict=True) if not matches]:
        raise TransferError(f"{len(missing)} of {len(wanted)} not there: {listed(missing, 3, 200)}")
    return {file: about for matches in found for file, about in matches.items()}


def _stamp(about: dict[str, Any]) -> int:
    """A number of what a file system says of a file: size, dates, checksum."""
    return int(hashlib.sha256(repr(about).encode()).hexdigest()[:15], 16)


def _of_split(name: str, shards: Sequence[Shard], split: str | None) -> list[Shard]:
    sets: dict[str, list[Shard]] = {}
    for shard in shards:
        sets.setdefault(NUMBER.sub("", shard.name.rpartition(".")[0]), []).append(shard)
    chosen = list(sets)
    if split is not None:
        in_folder = [key for key in sets if f"/{split}/" in f"/{key}/"]
        chosen = in_folder or [key for key in sets if key.endswith((f"-{split}", f".{split}"))]
    if not chosen:
        raise no_split(name, split, list(sets))
    if len(chosen) > 1 and not (split and in_folder):
        raise UsageError(f"{name}: needs a split; there is {listed(chosen)}; or name files by a pattern, such as *.tar")
    return [shard for key in chosen for shard in sets[key]]


def in_threads(title: str, function: Callable[[Any], Part], items: Sequence[Any]) -> list[Part]:
    """`function` of each shard, in order."""
    with (
        ThreadPoolExecutor(AT_ONCE) as pool,
        Progress(title, len(items), "shards", delay=NOTICEABLE_SECONDS) as progress,
    ):
        parts = []
        for part in pool.map(function, items):
            parts.append(part)
            progress.update()
        return parts


def named_labels(
    name: str, parts: Sequence[tuple[Sequence[str], np.ndarray]], class_names: Sequence[str] | None = None
) -> tuple[Sequence[str], np.ndarray]:
    """The class names, and the labels of all rows, one part after another.

    Args:
        parts: (names, places of the rows' labels among them, -1 for none, which stays).
        class_names: what the places mean in all parts; None: all names, sorted, numbers by their value.
    """
    if class_names is None:
        names = {name for own, _ in parts for name in own}
        class_names = sorted(names, key=int) if all(map(WHOLE_NUMBER.fullmatch, names)) else sorted(names)
        place = {name: label for label, name in enumerate(class_names)}
        parts = [(own, np.array([*map(place.__getitem__, own), -1], np.int64)[codes]) for own, codes in parts]
    labels = np.concatenate([np.zeros(0, np.int64), *(codes for _, codes in parts)])
    checked_labels(labels.clip(0), len(labels), name, max(len(class_names), 1))
    return class_names, labels


def labelled(source: Source) -> Source:
    """The images of a source that have a label; those without one (-1) are counted in a warning."""
    without = np.flatnonzero(source.labels < 0)
    if len(without) == len(source):
        raise TransferError(f"{source.name}: none of its {len(source)} images has a label")
    if not len(without):
        return source
    first = printable(source.ids[int(without[0])], 200)
    source.leave_out(f"left out without a label: {len(without)} images (first: {first})")
    return select(source, np.flatnonzero(source.labels >= 0))


class ShardSource(EncodedSource):
    """The images of shards, one shard after another, which are best read in that order.

    Ids are `SHARD/KEY`: they stay when shards are added.
    """

    in_order = True

    def __init__(
        self, name: str, shards: Sequence[Shard], counts: Sequence[int], class_names: Sequence[str], labels: np.ndarray
    ) -> None:
        self.shards, self._starts = shards, [0, *np.cumsum(counts).tolist()]
        super().__init__(name, class_names, labels, LazyIds(len(labels), self._id))

    @abc.abstractmethod
    def key(self, shard: int, row: int) -> str:
        """What an image is called in its shard, by the number of the shard and the row in it."""

    def place(self, row: int) -> tuple[int, int]:
        """The number of the shard that has a row, and the row in it."""
        shard = bisect.bisect_right(self._starts, row) - 1
        return shard, row - self._starts[shard]

    def _id(self, row: int) -> str:
        shard, place = self.place(row)
        return f"{self.shards[shard].name}/{self.key(shard, place)}"

    def shared_shape(self, indices: Iterable[int]) -> tuple[int, int, int] | None:
        """None where finding out would take reading too much beforehand."""
        return super().shared_shape(indices) if len(self) <= MOST_LOOKED_INTO else None

    def file_stamps(self, rows: Sequence[int]) -> np.ndarray:
        stamps = np.array([shard.stamp for shard in self.shards], np.int64)
        return stamps[np.searchsorted(self._starts, rows, "right") - 1]
