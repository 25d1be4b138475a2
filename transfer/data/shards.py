"""Shards: data sets as files of many images each, local or on a bucket; which of them belong to a split.

A split is a set of shards whose names begin alike: `train-00000-of-00005.parquet`, `imagenet-train-000012.tar` and
`train/000012.tar` are of `train`. A pattern of names (`train-{000000..000145}.tar`, `*.parquet`) is a split, too.
"""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from typing import Any

from braceexpand import braceexpand

from transfer.data.layout import listed, no_split
from transfer.errors import TransferError, UsageError
from transfer.runtime.distribution import install_hint
from transfer.runtime.files import paths
from transfer.runtime.files.untrusted import error_summary, prefix_errors

SIGNS = re.compile(r"[*?\[{]")  # of a pattern
# What tells the shards of a set apart: -000012, -00000-of-00005, and the hash that some versions of `datasets` add.
NUMBER = re.compile(r"/?([-_.]?\d+([-_.]of[-_.]\d+)?(-[0-9a-f]{16})?)?$")

# What says how many there are.
COUNT = re.compile(r"\d[-_.]of[-_.](\d+)")


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

    Args:
        ending: how their names end, a regular expression.

    Raises UsageError for a split that is not there or is none alone, TransferError where files are missing.
    """
    if split and (SIGNS.search(split) or re.search(ending, split)):
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
            if re.search(ending, file) and not any(part.startswith(".") for part in file[len(top) :].split("/"))
        ]
        if not shards:
            raise TransferError(f"there are no {name.partition(':')[0]} files, whose names end in {ending}")
    return _of_split(name, shards, split, ending) if split or is_folder else shards


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


def _of_split(name: str, shards: Sequence[Shard], split: str | None, ending: str) -> list[Shard]:
    sets: dict[str, list[Shard]] = {}
    for shard in shards:
        sets.setdefault(NUMBER.sub("", re.sub(ending, "", shard.name)), []).append(shard)
    chosen = list(sets)
    if split is not None:
        in_folder = [key for key in sets if f"/{split}/" in f"/{key}/"]
        chosen = in_folder or [key for key in sets if key.endswith((f"-{split}", f".{split}"))]
    if not chosen:
        raise no_split(name, split, list(sets))
    if len(chosen) > 1 and not (split and in_folder):
        raise UsageError(f"{name}: needs a split; there is {listed(chosen)}; or name files by a pattern, such as *.tar")
    for key in chosen:
        counts = [int(match[1]) for shard in sets[key] if (match := COUNT.search(shard.name))]
        if counts and set(counts) != {len(counts)}:
            there = f"{len(counts)} of {max(counts)} shards{key and f' of {key}'} are there, by their names"
            raise TransferError(f"{name}: {there}; copy what lacks, or say by a pattern which to read, such as *.tar")
    return [shard for key in chosen for shard in sets[key]]
