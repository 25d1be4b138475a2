"""`folder:PATH`: class folders of images in a folder, a zip or a tar, with or without splits above them."""

import collections
import functools
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from absl import logging

from transfer.data import formats, layout
from transfer.data.containers import Folder, Tar, Zip, open_container
from transfer.data.encoded import EncodedSource
from transfer.data.layout import Entry
from transfer.data.source import digest
from transfer.errors import TransferError, UsageError
from transfer.runtime.files.untrusted import prefix_errors, printable


class FolderSource(EncodedSource):
    """Class folders; classes and files in sorted order, ids are the paths below the folder."""

    def __init__(
        self,
        name: str,
        container: Folder | Zip | Tar,
        class_names: Sequence[str],
        entries: list[tuple[str, int, Entry]],
    ) -> None:
        labels = np.asarray([label for _, label, _ in entries], np.int64)
        super().__init__(name, class_names, labels, [id_ for id_, _, _ in entries])
        self.container, self.files = container, [entry for _, _, entry in entries]

    def read(self, row: int, limit: int | None = None) -> bytes:
        entry = self.files[row]
        locator: Any = entry.locator
        data = self.container.read(locator, limit)
        if limit is None and isinstance(self.container, Folder):
            self.container.check_same(entry, data)
        return data

    def file_stamps(self, rows: Sequence[int]) -> np.ndarray | None:
        locators: list[Any] = [self.files[row].locator for row in rows]
        stamps = list(map(self.container.stamp, locators))
        return None if None in stamps else np.array(stamps, np.int64)

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest(self, (b"%s\n" % entry.identity for entry in self.files))


def open_split(path: str, split: str | None, class_in_name: str | None = None) -> FolderSource:
    """Opens class folders at `path` (a folder, a zip or a tar), below the sub-folder or path `split` if one is named.

    A class folder without images stays a class, so that the splits of a data set agree on the labels, and is
    named in a warning. Images that lie in no folder at all have no labels, and there are no classes.

    Args:
        class_in_name: a regular expression whose group is the class in the name of each file, `cat` of `cat.0.jpg`;
            folders then mean nothing.

    Raises UsageError for a missing or unknown split and where splits would become classes, TransferError where there
    are no images.
    """
    name, of_split = f"folder:{path}", f" of {split!r}" if split else ""
    with prefix_errors(name):
        container = open_container(path)
        listing = container.entries()
    way, entries = layout.below_split(name, [e for e in listing if e.locator is not None], split)
    others = [e.parts for e in listing if e.locator is None and e.parts[: len(way)] == way]
    if class_in_name is not None:
        entries = [
            e._replace(parts=(_class(name, e.parts, class_in_name), *e.parts)) for e in entries if not e.is_folder
        ]
    class_names = layout.tops(entries)
    images = sorted((e for e in entries if not e.is_folder and len(e.parts) > 1), key=lambda e: e.parts)
    loose = sum(len(e.parts) == 1 for e in entries if not e.is_folder)
    if loose and not class_names:  # a flat folder: nothing is known of its images
        images, loose = sorted((e for e in entries if not e.is_folder), key=lambda e: e.parts), 0
    if not images:
        advice = ""
        if loose:
            advice = f"; {loose} lie beside them: put each into a folder that is named after its class"
        elif others:
            advice = f"; there {'is' if len(others) == 1 else 'are'} {left_out(others)}"
            if any(parts[-1].casefold().endswith(layout.ARCHIVES) for parts in others):
                advice += ": unpack them"
        raise TransferError(f"{name}: no images in class folders{of_split}{advice}")
    formats.check_decoders(name, (e.parts[-1] for e in images))
    number = {class_name: label for label, class_name in enumerate(class_names)}
    prefix = layout.split_parts(split)
    below = 1 if class_in_name is not None else 0
    rows = [("/".join(prefix + e.parts[below:]), number.get(e.parts[0], 0), e) for e in images]
    source = FolderSource(name, container, class_names, rows)
    if empty := sorted(set(class_names).difference(e.parts[0] for e in images)):
        source.leave_out(f"no images in class folder {layout.listed(empty)}{of_split}")
    if others or loose:
        source.leave_out(f"left out{of_split}: {left_out(others, loose)}")
    return source


def _class(name: str, parts: Sequence[str], pattern: str) -> str:
    """The class in a file's name; UsageError where there is none, or the pattern is none with one group."""
    setting = f"config.data.class_in_name={pattern}"
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{setting}: no regular expression ({error})") from error
    if expression.groups != 1:
        raise UsageError(f"{setting}: needs one group, ( … ), which is the class; it has {expression.groups}")
    match = expression.search(parts[-1])
    if match is None or not match[1]:
        raise UsageError(f"{setting}: {name}: there is no class in the name {printable(parts[-1], 200)}")
    return match[1]


def left_out(others: Iterable[Sequence[str]], loose: int = 0) -> str:
    """The numbers of files that are no images, by the endings of their paths, and of images in no class folder."""
    kinds = formats.counted(collections.Counter(formats.ending(parts[-1]) for parts in others))
    beside = f"{loose} image{'' if loose == 1 else 's'} beside the class folders" if loose else ""
    return ", ".join(filter(None, (kinds, beside)))


def open_images(paths: Iterable[str | os.PathLike[str]]) -> FolderSource:
    """The images `paths`, unlabelled: a file whatever its name is, of a folder, a zip or a tar the images in it.

    In the order in which they are named, those of a folder sorted; what is named twice counts once. Ids are paths. What
    is left out of a folder is said.

    Raises UsageError where there is no such file or folder, TransferError for a folder without images, and no paths.
    """
    files = {file: place for path in paths for file, place in _files(os.fspath(path))}
    if not files:
        raise TransferError("there are no images to predict; name files or folders")
    formats.check_decoders("images", files)
    entries = [(file, 0, Entry((file,), b"", False, place)) for file, place in files.items()]
    source = _Images("images", Folder(""), (), entries)
    source.uniform_shape = None  # images are resized as they are read, so that one program serves those of all sizes
    return source


class _Images(FolderSource):
    """Images of several containers, each located by its container and what that needs to read it."""

    def read(self, row: int, limit: int | None = None) -> bytes:
        place: Any = self.files[row].locator
        container, locator = place
        return container.read(locator, limit)


def _files(path: str) -> list[tuple[str, tuple[Any, Any]]]:
    """The images that a path stands for, each with its place."""
    name = printable(path, 200)
    if not os.path.exists(path):
        raise UsageError(f"there is no file or folder {name}")
    is_archive = os.path.isfile(path) and path.casefold().endswith(layout.ARCHIVES)
    if not (is_archive or os.path.isdir(path)):
        return [(path, (Folder(""), path))]
    with prefix_errors(name):
        container = open_container(path)
        files = [entry for entry in container.entries() if not entry.is_folder]
    images = sorted((entry for entry in files if entry.locator is not None), key=lambda entry: entry.parts)
    others = left_out(entry.parts for entry in files if entry.locator is None)
    if not images:
        raise TransferError(f"{name}: no images below it{others and f'; there is {others}'}")
    if others:
        logging.warning("%s: left out: %s", name, others)
    return [(os.path.join(path, *entry.parts), (container, entry.locator)) for entry in images]
