"""Where in a folder or a zip the class folders lie, and whether they are classes: splits are named, not guessed."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from transfer.errors import UsageError, did_you_mean, similar
from transfer.runtime.files.untrusted import MAX_PRINTED, printable

# What the parts of a data set are called, in lower case; as classes they would be learned without a word.
NO_CLASSES = (
    "train", "training", "val", "valid", "validation", "test", "testing", "test1", "meta", "images",
)  # fmt: skip
MOST_NAMED = 10
# How the names of archives end, those too that have to be unpacked.
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")


class Entry(NamedTuple):
    """A file or a folder: its path inside the data set, and what identifies its content."""

    parts: tuple[str, ...]
    identity: bytes  # size, and CRC-32 where the archive knows it
    is_folder: bool
    locator: object  # what the container needs to read it; None for a file that is no image


def split_parts(split: str | None) -> tuple[str, ...]:
    """The folders on the way to a split, which may be a path: `train`, `data/train`."""
    return tuple(part for part in (split or "").split("/") if part not in ("", "."))


def below_split(name: str, entries: list[Entry], split: str | None) -> tuple[tuple[str, ...], list[Entry]]:
    """The folder of the class folders, and the entries below it; one folder around everything is looked through.

    Args:
        entries: images and folders.

    Raises UsageError for a split that is not there, and where the folders found are no class folders.
    """
    wanted, way = split_parts(split) or ((split,) if split else ()), list[str]()
    while _is_around(entries) and (not wanted or wanted[0] not in tops(entries)):
        way += tops(entries)
        entries = _inside(entries, way[-1])
    depths = [len(e.parts) for e in entries if not e.is_folder and len(e.parts) > 1]
    if not wanted and depths and min(depths) > 2:
        raise UsageError(f"{name}: holds folders of class folders; name one as the split: {listed(tops(entries))}")
    for part in wanted:
        if part not in (folders := tops(entries)):
            raise no_split(name, split, folders)
        way.append(part)
        entries = _inside(entries, part)
    _check_classes(name, entries, split)
    return tuple(way), entries


def _is_around(entries: Sequence[Entry]) -> bool:
    """Whether all lies in one folder that has folders of images: a zip of the folder itself, for example."""
    return len(tops(entries)) == 1 and any(not e.is_folder and len(e.parts) > 2 for e in entries)


def tops(entries: Iterable[Entry]) -> list[str]:
    """The folders at the top, sorted."""
    return sorted({e.parts[0] for e in entries if e.is_folder or len(e.parts) > 1})


def listed(names: Sequence[str], most: int = MOST_NAMED, length: int = MAX_PRINTED) -> str:
    """Names as a message lists them: the first few, each cut at `length` characters."""
    return ", ".join(printable(name, length) for name in names[:most]) + (", …" if len(names) > most else "")


def no_split(name: str, split: str | None, splits: Sequence[str]) -> UsageError:
    """The error for a split that is not among those of a data set, or that is not named."""
    problem = f"no split {split!r}" if split else "needs a split"
    hint = did_you_mean([printable(close) for close in similar(split or "", splits)])
    return UsageError(f"{name}: {problem}; there is {listed(splits) or 'nothing'}{hint}")


def _inside(entries: list[Entry], folder: str) -> list[Entry]:
    return [e._replace(parts=e.parts[1:]) for e in entries if e.parts[0] == folder and len(e.parts) > 1]


def _check_classes(name: str, entries: list[Entry], split: str | None) -> None:
    """Raises UsageError where the folders at the top are parts of a data set rather than classes."""
    files = [e.parts for e in entries if not e.is_folder]
    with_files = {parts[0] for parts in files if len(parts) == 2}
    with_folders = {parts[0] for parts in files if len(parts) > 2}
    named_as_parts = [top for top in tops(entries) if top.casefold() in NO_CLASSES]
    only_folders, only_files = sorted(with_folders - with_files), sorted(with_files - with_folders)
    if named_as_parts:
        why = f"named like a part of a data set, not like a class: {listed(named_as_parts)}"
        unless = "if it is a class, rename its folder"
    elif only_folders and only_files:
        why = f"not all of one kind: {listed(only_folders)} with nothing but folders, {listed(only_files)} with images"
        unless = "if these are classes, put the images of each right into its folder"
    else:
        return
    advised = [printable("/".join((*split_parts(split), top))) for top in sorted(with_folders)][:MOST_NAMED]
    instead = (
        f"name the one whose folders are the classes as the split (--config.data.train={' or '.join(advised)})"
        if advised
        else "none holds folders of classes: put the images of each class into a folder that is named after it, or "
        "name a split and say where the names of files have the class (--config.data.class_in_name)"
    )
    where = f" of {split!r}" if split else ""
    raise UsageError(f"{name}: folders{where} {why}; {instead}; {unless}")
