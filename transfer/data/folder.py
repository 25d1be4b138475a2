"""`folder:PATH`: a folder or a zip of class folders of JPEG, PNG or PPM files, with or without splits above them."""

import functools
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from absl import logging

from transfer.data import decode, layout
from transfer.data.encoded import EncodedSource
from transfer.data.layout import Entry
from transfer.data.source import digest
from transfer.errors import TransferError, UsageError
from transfer.runtime.files import archives
from transfer.runtime.files.untrusted import prefix_errors, printable

UNCOMPRESSED = (".ppm",)
# What systems and network drives leave in folders, in lower case: thumbnails, what was deleted, what was found.
SYSTEM_NAMES = (
    "__macosx", "thumbs.db", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information",
)  # fmt: skip


class Folder:
    """Files on disk.

    `ignored` are the names of files that are no images, once `entries` has listed them.
    """

    def __init__(self, path: str) -> None:
        self.path, self.ignored = path, list[str]()

    def entries(self) -> list[Entry]:
        """Every image file and every folder below."""
        entries: list[Entry] = []
        # each with the folders that it lies in, or links that point back up would go on for ever
        waiting: list[tuple[tuple[str, ...], str, tuple[tuple[int, int], ...]]] = [((), self.path, ())]
        while waiting:
            parts, folder, above = waiting.pop()
            status = os.stat(folder)
            inode = (status.st_dev, status.st_ino)
            if inode in above:
                raise TransferError(f"folder:{self.path}: {printable(folder, 200)} is a link to a folder that holds it")
            with os.scandir(folder) as listing:
                for item in listing:
                    if _is_hidden(item.name):
                        continue
                    below = (*parts, item.name)
                    if item.is_dir():
                        waiting.append((below, item.path, (*above, inode)))
                        entries.append(Entry(below, b"", True, item.path))
                    # a pipe might never end; a link to nothing is an image that cannot be read
                    elif _is_image(item.name) and (item.is_file() or not os.path.exists(item.path)):
                        entries.append(Entry(below, _identity(item), False, item.path))
                    else:
                        self.ignored.append(item.name)
        return entries

    def read(self, path: str, limit: int | None = None) -> bytes:
        """The bytes of one file, or its first `limit`; from any thread; OSError or ValueError if it cannot be read."""
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("no regular file")
            return file.read(-1 if limit is None else limit)

    def stamp(self, path: str) -> int:
        """A number that changes when the file is written to, moved or copied."""
        try:
            status = os.stat(path)
        except OSError:
            return 0
        return hash((status.st_size, status.st_mtime_ns, status.st_ctime_ns))  # of numbers: the same in each process


def _identity(item: os.DirEntry) -> bytes:
    """The identity of an image under its name: its size, and its content where sizes of a geometry are equal."""
    try:
        if not item.name.lower().endswith(UNCOMPRESSED):
            return b"%d" % item.stat().st_size
        with open(item.path, "rb") as file:
            return b"%d" % zlib.crc32(file.read())
    except OSError:  # a link to nothing, for example: an image that cannot be read, as whoever reads it will say
        return b"unreadable"


class Zip:
    """Members of a zip, read side by side by position: `zipfile` would make the threads take turns.

    `ignored` are the names of members that are no images, once `entries` has listed them.
    """

    def __init__(self, path: str) -> None:
        self.path, self.ignored = path, list[str]()
        with open(path, "rb") as file, prefix_errors(path), archives.open_zip(file) as archive:
            self.members = list(archive.members.values())
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115 - lives as long as the source
        self.size = os.fstat(self.file.fileno()).st_size

    def entries(self) -> list[Entry]:
        """Every image file and every folder in it."""
        entries = []
        for member in self.members:
            folder, _, file = member.filename.rpartition("/")
            parts = _visible(folder)
            if parts is None or _is_hidden(file):
                continue
            if file and not _is_image(file):
                self.ignored.append(file)
            elif file:
                entries.append(Entry((*parts, file), b"%d:%d" % (member.file_size, member.CRC), False, member))
            elif parts:
                entries.append(Entry(parts, b"", True, member))
        return entries

    def read(self, member: zipfile.ZipInfo, limit: int | None = None) -> bytes:
        """The bytes of one member, or about its first `limit`; from any thread; ValueError if it is damaged."""
        try:
            archives.check_member(member, self.size)
        except TransferError as error:
            raise ValueError(str(error)) from error
        descriptor, offset = self.file.fileno(), member.header_offset
        header = os.pread(descriptor, 30, offset) if 0 <= offset <= self.size else b""
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise ValueError("damaged zip")
        offset += 30 + sum(struct.unpack("<HH", header[26:30]))  # past the name and the extra field
        packed_size = member.compress_size if limit is None else min(limit, member.compress_size)
        data = os.pread(descriptor, packed_size, offset)
        if member.compress_type == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-15).decompress(data, member.file_size + 1 if limit is None else limit)
            except zlib.error as error:
                raise ValueError("damaged zip") from error
        if limit is None and (len(data) != member.file_size or zlib.crc32(data) != member.CRC):
            raise ValueError("damaged zip: wrong checksum")
        return data

    def stamp(self, member: zipfile.ZipInfo) -> None:
        """None, since the checksums in the zip tell all content."""


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in SYSTEM_NAMES


@functools.lru_cache(maxsize=4096)  # a folder is asked about once per file
def _visible(folder: str) -> tuple[str, ...] | None:
    """The parts of a path inside a zip; None if one of them is hidden."""
    parts = tuple(part for part in folder.split("/") if part)
    return None if any(map(_is_hidden, parts)) else parts


def _is_image(name: str) -> bool:
    return name.lower().endswith(decode.EXTENSIONS)


class FolderSource(EncodedSource):
    """Class folders; classes and files in sorted order, ids are the paths below the folder."""

    def __init__(
        self, name: str, container: Folder | Zip, class_names: Sequence[str], entries: list[tuple[str, int, Entry]]
    ) -> None:
        labels = np.asarray([label for _, label, _ in entries], np.int64)
        super().__init__(name, class_names, labels, [id_ for id_, _, _ in entries])
        self.container, self.files = container, [entry for _, _, entry in entries]

    def read(self, row: int, limit: int | None = None) -> bytes:
        locator: Any = self.files[row].locator
        return self.container.read(locator, limit)

    def file_stamps(self, rows: Sequence[int]) -> np.ndarray | None:
        locators: list[Any] = [self.files[row].locator for row in rows]
        stamps = list(map(self.container.stamp, locators))
        return None if None in stamps else np.array(stamps, np.int64)

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest(self, (b"%s\n" % entry.identity for entry in self.files))


def open_split(path: str, split: str | None) -> FolderSource:
    """Opens class folders at `path` (a folder or a zip), below the sub-folder or path `split` if one is named.

    A class folder without images stays a class, so that the splits of a data set agree on the labels, and is
    named in a warning. Raises UsageError for a missing or unknown split and where splits would become classes,
    TransferError where there are no images.
    """
    container = Folder(path) if os.path.isdir(path) else Zip(path)
    name, of_split = f"folder:{path}", f" of {split!r}" if split else ""
    entries = layout.below_split(name, container.entries(), split)
    class_names = layout.tops(entries)
    images = sorted((e for e in entries if not e.is_folder and len(e.parts) > 1), key=lambda e: e.parts)
    ignored = container.ignored
    if not images:
        advice = ""
        if loose := sum(not e.is_folder for e in entries):
            advice = f"; {loose} lie beside them: put each into a folder that is named after its class"
        elif ignored:
            advice = f"; {len(ignored)} files are of other kinds: convert them to JPEG or PNG"
        raise TransferError(f"{name}: no JPEG, PNG or PPM files in class folders{of_split}{advice}")
    if empty := sorted(set(class_names).difference(e.parts[0] for e in images)):
        logging.warning("%s: no images in class folder %s%s", name, layout.listed(empty), of_split)
    if ignored:
        files = "file" if len(ignored) == 1 else "files"
        logging.warning(
            "%s: %d %s ignored (%s): not JPEG, PNG or PPM", name, len(ignored), files, layout.listed(ignored, 3)
        )
    number = {class_name: label for label, class_name in enumerate(class_names)}
    prefix = layout.split_parts(split)
    rows = [("/".join(prefix + e.parts), number[e.parts[0]], e) for e in images]
    return FolderSource(name, container, class_names, rows)


def open_images(paths: Iterable[str | os.PathLike[str]]) -> FolderSource:
    """The images `paths`, unlabelled: a file whatever its name is, of a folder the JPEG, PNG and PPM files below it.

    In the order in which they are named, those of a folder sorted; what is named twice counts once. Ids are paths.

    Raises UsageError where there is no such file or folder, TransferError for a folder without images, and no paths.
    """
    files = list(dict.fromkeys(file for path in paths for file in _files(os.fspath(path))))
    if not files:
        raise TransferError("there are no images to predict; name files or folders")
    source = FolderSource("images", Folder(""), (), [(path, 0, Entry((path,), b"", False, path)) for path in files])
    source.uniform_shape = None  # images are resized as they are read, so that one program serves those of all sizes
    return source


def _files(path: str) -> list[str]:
    if not os.path.exists(path):
        raise UsageError(f"there is no file or folder {printable(path, 200)}")
    if not os.path.isdir(path):
        return [path]
    images = sorted(entry.parts for entry in Folder(path).entries() if not entry.is_folder)
    if not images:
        raise TransferError(f"{printable(path, 200)}: no images below it ({', '.join(decode.EXTENSIONS)})")
    return [os.path.join(path, *parts) for parts in images]
