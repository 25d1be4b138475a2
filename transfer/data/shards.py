"""Shards: data sets as files of many images each, local or on a bucket; which of them belong to a split.

A split is a set of shards whose names begin alike: `train-00000-of-00005.parquet`, `imagenet-train-000012.tar` and
`train/000012.tar` are of `train`. A pattern of names (`train-{000000..000145}.tar`, `*.parquet`) is a split, too.
"""

import abc
import bisect
import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from absl import logging
from braceexpand import braceexpand

from transfer.data.encoded import EncodedSource
from transfer.data.ids import LazyIds
from transfer.data.layout import listed, no_split
from transfer.data.source import Source, checked_labels, select
from transfer.errors import TransferError, UsageError
from transfer.runtime.distribution import install_hint
from transfer.runtime.files import paths
from transfer.runtime.files.untrusted import error_summary, printable
from transfer.runtime.progress import NOTICEABLE_SECONDS, Progress

SIGNS = re.compile(r"[*?\[{]")  # of a pattern
# What tells the shards of a set apart: -000012, -00000-of-00005, and the hash that some versions of `datasets` add.
NUMBER = re.compile(r"([-_.]?\d+([-_.]of[-_.]\d+)?(-[0-9a-f]{16})?)?$")
WHOLE_NUMBER = re.compile(r"-?[0-9]+")
# How many shards are looked at side by side: on a bucket each is a wait.
AT_ONCE = 16
# In so many images it is worth to look for one size that all of them have.
MOST_LOOKED_INTO = 100_000
# The buckets that the package has an extra for.
BUCKETS = ("gs", "s3")
Part = TypeVar("Part")


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file: its name below what was asked for, and what it was when it was listed."""

    name: str
    path: str
    size: int
    stamp: int  # differs once it was written to
    system: Any  # of fsspec

    def read(self, start: int, size: int) -> bytes:
        """A stretch of its bytes; from any thread. TransferError: it is not an image that cannot be read."""
        try:
            data = self.system.cat_file(self.path, start, start + size)
        except Exception as error:  # each file system has its own
            raise TransferError(f"{self.path}: cannot be read ({error_summary(error)})") from error
        if len(data) != size:
            raise TransferError(f"{self.path}: has become shorter since it was listed; run the same command again")
        return data


def find(name: str, path: str, split: str | None, endings: tuple[str, ...]) -> list[Shard]:
    """The shards of a split, sorted: of a file, of all below a folder, or those that a pattern names.

    Raises UsageError for a split that is not there or is none alone, TransferError where shards are missing.
    """
    if split and (SIGNS.search(split) or split.lower().endswith(endings)):
        path, split = f"{path.rstrip('/')}/{split}", None
    system, root = _system(name, path)
    literal = system.exists(root)
    if literal and system.isdir(root):
        top, files = root.rstrip("/"), [file for file in system.find(root) if file.lower().endswith(endings)]
    else:
        before = root if literal else root[: SIGNS.search(root + "*").start()]  # type: ignore[union-attr]
        top, files = before.rpartition("/")[0], [root] if literal else _matching(system, root)
    sets: dict[str, list[str]] = {}
    for file in sorted(set(files)):
        if not any(part.startswith(".") for part in file[len(top) :].split("/")):
            stem = file[len(top) + 1 :].rpartition(".")[0]
            sets.setdefault(NUMBER.sub("", stem).rstrip("/"), []).append(file)
    if not sets:
        raise TransferError(f"{name}: no {' or '.join(endings)} files there" if literal else f"{name}: no such files")
    chosen = sorted(file for key in _of_split(name, sets, split, whole=top != root.rstrip("/")) for file in sets[key])

    def shard(file: str) -> Shard | None:
        try:
            return Shard(file[len(top) + 1 :], file, system.size(file), int(system.ukey(file)[:15], 16), system)
        except FileNotFoundError:
            return None

    shards = in_threads(f"look at {name}", shard, chosen)
    if missing := [file for file, found in zip(chosen, shards, strict=True) if found is None]:
        raise TransferError(f"{name}: {len(missing)} of {len(chosen)} files are not there: {listed(missing, 3, 200)}")
    return [found for found in shards if found is not None]


def in_threads(title: str, function: Callable[[Any], Part], items: Sequence[Any]) -> list[Part]:
    """`function` of each item, in order."""
    parts = []
    with (
        ThreadPoolExecutor(AT_ONCE) as pool,
        Progress(title, len(items), "shards", delay=NOTICEABLE_SECONDS) as progress,
    ):
        for part in pool.map(function, items):
            parts.append(part)
            progress.update()
    return parts


def _system(name: str, path: str) -> tuple[Any, str]:
    """The file system of fsspec that has `path`, and the path in it."""
    import fsspec

    scheme = path.partition("://")[0]
    try:
        if scheme == "gs":
            paths.open_path(path)  # says within seconds what keeps the bucket from being read
        return fsspec.url_to_fs(path)
    except (ImportError, ValueError) as error:
        hint = f": {install_hint(scheme)}" if scheme in BUCKETS else ""
        raise TransferError(f"{name}: {scheme}:// cannot be read here ({error_summary(error)}){hint}") from error


def _matching(system: Any, pattern: str) -> list[str]:
    try:
        patterns = list(braceexpand(pattern)) if "{" in pattern else [pattern]
    except ValueError as error:
        raise UsageError(f"{pattern}: its braces do not match ({error})") from error
    if len(patterns) == 1 and not SIGNS.search(pattern):
        raise TransferError(f"no such file or folder: {pattern}")
    return [file for each in patterns for file in (system.glob(each) if SIGNS.search(each) else [each])]


def _of_split(name: str, sets: dict[str, list[str]], split: str | None, whole: bool) -> Sequence[str]:
    """The sets that make up a split; without one the only set, or all of what was named one by one (`whole`)."""
    if split is None:
        if len(sets) > 1 and not whole:
            raise UsageError(f"{name}: needs a split; there is {listed(list(sets))}; or write a pattern, such as *.tar")
        return list(sets)
    if in_folder := [key for key in sets if f"/{split}/" in f"/{key}/"]:
        return in_folder
    last = [key for key in sets if re.search(rf"[-.]{re.escape(split)}$", key)]
    if len(last) > 1:
        raise UsageError(f"{name}: {split!r} may be {listed(last)}; write one of them")
    if not last:
        raise no_split(name, split, list(sets))
    return last


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
    has_label = source.labels >= 0
    if not has_label.any():
        raise TransferError(f"{source.name}: none of its {len(source)} images has a label")
    if has_label.all():
        return source
    without = np.flatnonzero(~has_label)
    first = printable(source.ids[int(without[0])], 200)
    logging.warning("%s: left out without a label: %d images (first: %s)", source.name, len(without), first)
    return select(source, np.flatnonzero(has_label))


class ShardSource(EncodedSource):
    """The images of shards, one shard after another, which are best read in that order.

    Ids are `SHARD/KEY`: they stay when shards are added.
    """

    in_order = True

    def __init__(
        self, name: str, shards: Sequence[Shard], counts: Sequence[int], class_names: Sequence[str], labels: np.ndarray
    ) -> None:
        self.shards = shards
        self._starts: list[int] = np.cumsum([0, *counts]).tolist()
        super().__init__(name, class_names, labels, LazyIds(self._starts[-1], self._id))

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
        """None where that would take reading too much beforehand."""
        return super().shared_shape(indices) if len(self) <= MOST_LOOKED_INTO else None

    def file_stamps(self, rows: Sequence[int]) -> np.ndarray:
        stamps = np.array([shard.stamp for shard in self.shards], np.int64)
        return stamps[np.searchsorted(self._starts, rows, "right") - 1]
