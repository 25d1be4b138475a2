"""`folder:PATH`: a folder or a zip of class folders of JPEG, PNG or PPM files, with or without splits above them."""

import functools
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from absl import logging

from transfer.data import decode, layout
from transfer.data.layout import Entry
from transfer.data.source import BrokenImage, Source, digest
from transfer.errors import TransferError
from transfer.runtime.files import archives
from transfer.runtime.files.untrusted import prefix_errors, printable

UNCOMPRESSED = (".ppm",)
# What systems and network drives leave in folders, in lower case: thumbnails, what was deleted, what was found.
OF_THE_SYSTEM = (
    "__macosx", "thumbs.db", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information",
)  # fmt: skip
HEADER_BYTES = 64 * 1024  # mostly enough of a file to learn its size; the whole of it is tried next


class Container(Protocol):
    """Where files lie."""

    left_out: int

    def entries(self) -> list[Entry]:
        """Every file and folder below."""

    def read(self, locator: object, limit: int | None = None) -> bytes:
        """The bytes of one file, or about its first `limit`; thread-safe; OSError or ValueError if it cannot."""

    def stamp(self, locator: object) -> int | None:
        """Another one where the file has been written to, moved or copied; None where identities tell all content."""


def _identity(item: os.DirEntry) -> bytes:
    """What tells an image from another of its name: its size, and its content where sizes of a geometry are equal."""
    try:
        if not item.name.lower().endswith(UNCOMPRESSED):
            return b"%d" % item.stat().st_size
        with open(item.path, "rb") as file:
            return b"%d" % zlib.crc32(file.read())
    except OSError:  # a link to nothing, for example: an image that cannot be read, as whoever reads it will say
        return b"unreadable"


class Folder:
    """Files on disk."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.left_out = 0  # files that are no images

    def entries(self) -> list[Entry]:
        found: list[Entry] = []
        # each with the folders that it lies in, or links that point back up would go on for ever
        waiting: list[tuple[tuple[str, ...], str, tuple[tuple[int, int], ...]]] = [((), self.path, ())]
        while waiting:
            parts, folder, above = waiting.pop()
            status = os.stat(folder)
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                raise TransferError(
                    f"folder:{self.path}: {printable(folder, 200)} is a link to a folder that it lies in"
                )
            with os.scandir(folder) as listing:
                for item in listing:
                    if _ignored(item.name):
                        continue
                    below = (*parts, item.name)
                    if item.is_dir():
                        waiting.append((below, item.path, (*above, identity)))
                        found.append(Entry(below, b"", True, item.path))
                    # a pipe might never end; a link to nothing is an image that cannot be read
                    elif _is_image(item.name) and (item.is_file() or not os.path.exists(item.path)):
                        found.append(Entry(below, _identity(item), False, item.path))
                    else:
                        self.left_out += 1
        return found

    def read(self, locator: object, limit: int | None = None) -> bytes:
        with open(os.open(str(locator), os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("no regular file")
            return file.read(-1 if limit is None else limit)

    def stamp(self, locator: object) -> int:
        try:
            status = os.stat(str(locator))
        except OSError:
            return 0
        return hash((status.st_size, status.st_mtime_ns, status.st_ctime_ns))  # of numbers: the same in each process


class Zip:
    """Members of a zip, read side by side by position: `zipfile` would make the threads take turns."""

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, "rb") as file, prefix_errors(path), archives.open_zip(file) as archive:
            self.members = list(archive.members.values())
        self.left_out = 0
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115 - lives as long as the source
        self.size = os.fstat(self.file.fileno()).st_size

    def entries(self) -> list[Entry]:
        found = []
        for member in self.members:
            folder, _, file = member.filename.rpartition("/")
            parts = _visible(folder)
            if parts is None or _ignored(file):
                continue
            if file and not _is_image(file):
                self.left_out += 1
                continue
            identity = b"%d:%d" % (member.file_size, member.CRC)
            if file:
                found.append(Entry((*parts, file), identity, False, member))
            elif parts:
                found.append(Entry(parts, b"", True, member))
        return found

    def read(self, locator: object, limit: int | None = None) -> bytes:
        assert isinstance(locator, zipfile.ZipInfo)
        try:
            archives.check_member(locator, self.size)
        except TransferError as error:
            raise ValueError(str(error)) from error
        data = self._packed(locator, limit)
        if locator.compress_type == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-15).decompress(data, locator.file_size + 1 if limit is None else limit)
            except zlib.error as error:
                raise ValueError("damaged zip") from error
        if limit is None and (len(data) != locator.file_size or zlib.crc32(data) != locator.CRC):
            raise ValueError("damaged zip: wrong checksum")
        return data

    def stamp(self, locator: object) -> None:
        return None

    def _packed(self, member: zipfile.ZipInfo, limit: int | None) -> bytes:
        descriptor, offset = self.file.fileno(), member.header_offset
        length = member.compress_size if limit is None else min(limit, member.compress_size)
        if not 0 <= offset <= self.size:
            raise ValueError("damaged zip: a member outside of it")
        header = os.pread(descriptor, 30, offset)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise ValueError("damaged zip")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        return os.pread(descriptor, length, offset + 30 + name_length + extra_length)


def _ignored(name: str) -> bool:
    return name.startswith(".") or name.casefold() in OF_THE_SYSTEM


@functools.lru_cache(maxsize=4096)  # a folder is asked about once a file
def _visible(folder: str) -> tuple[str, ...] | None:
    """The parts of a path inside a zip; None if one of them is to be ignored."""
    parts = tuple(part for part in folder.split("/") if part)
    return None if any(map(_ignored, parts)) else parts


def _kinds() -> str:
    return ", ".join(decode.EXTENSIONS)


def _is_image(name: str) -> bool:
    return name.lower().endswith(decode.EXTENSIONS)


class FolderSource(Source):
    """Class folders; classes and files in sorted order, ids are the paths below the folder."""

    def __init__(
        self, name: str, container: Container, class_names: Sequence[str], entries: list[tuple[str, int, Entry]]
    ) -> None:
        self.name, self.container = name, container
        self.class_names = tuple(class_names)
        self.ids = [id_ for id_, _, _ in entries]
        self.labels = np.asarray([label for _, label, _ in entries], np.int64)
        self.files = [entry for _, _, entry in entries]
        self._checksums = np.full(len(self.ids), -1, np.int64)  # of what has been read

    def image(self, index: int) -> np.ndarray:
        return self.image_into(index)

    def image_into(
        self, index: int, out: np.ndarray | None = None, divisor: decode.Divisor | None = None
    ) -> np.ndarray:
        where = f"{self.name}: {printable(self.ids[index], 200)}"
        try:
            data = self.container.read(self.files[index].locator)
        except (OSError, ValueError) as error:
            raise BrokenImage(f"{where}: cannot be read ({error})") from error
        self._checksums[index] = zlib.crc32(data)
        return decode.decode(data, where, out, divisor)

    def file_stamps(self, rows: Sequence[int]) -> np.ndarray | None:
        found = [self.container.stamp(self.files[row].locator) for row in rows]
        return None if None in found else np.array(found, np.int64)

    def file_checksums(self, rows: Sequence[int]) -> np.ndarray:
        return np.array([self._checksum(row) for row in rows], np.int64)

    def _checksum(self, row: int) -> int:
        try:
            return zlib.crc32(self.container.read(self.files[row].locator))
        except (OSError, ValueError):
            return -1

    def file_checksums_read(self, rows: Sequence[int]) -> np.ndarray:
        return self._checksums[rows]

    @functools.cached_property
    def uniform_shape(self) -> tuple[int, int, int] | None:  # type: ignore[override]
        return self.shared_shape(range(len(self)))

    def shared_shape(self, indices: Iterable[int]) -> tuple[int, int, int] | None:
        """From the headers of the files, up to the first that differs; broken files do not count."""
        shared = None
        for index in indices:
            shape = self._size(index)
            if shape is not None and shape != (shared or shape):
                return None
            shared = shared or shape
        return shared

    def _size(self, index: int) -> tuple[int, int, int] | None:
        locator = self.files[index].locator
        try:
            return decode.size(self.container.read(locator, HEADER_BYTES)) or decode.size(self.container.read(locator))
        except (OSError, ValueError):
            return None

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
    name = f"folder:{path}"
    entries = layout.below_split(name, container.entries(), split)
    class_names = layout.tops(entries)
    images = sorted((e for e in entries if not e.is_folder and len(e.parts) > 1), key=lambda e: e.parts)
    if not images:
        instead = _instead(entries, container)
        raise TransferError(f"{name}: no JPEG, PNG or PPM files in class folders{_in(split)}{instead}")
    number = {class_name: label for label, class_name in enumerate(class_names)}
    empty = set(class_names).difference(e.parts[0] for e in images)
    if empty:
        logging.warning("%s: no images in class folder %s%s", name, layout.listed(sorted(empty)), _in(split))
    if container.left_out:
        logging.warning("%s: %d files left out, which are no %s", name, container.left_out, _kinds())
    prefix = layout.split_parts(split)
    rows = [("/".join(prefix + e.parts), number[e.parts[0]], e) for e in images]
    return FolderSource(name, container, class_names, rows)


def _instead(entries: list[Entry], container: Container) -> str:
    """What there is where no image is in a class folder, and what to do."""
    if loose := sum(not e.is_folder for e in entries):
        return f"; {loose} lie beside them: put each into a folder that is named after its class"
    if container.left_out:
        return f"; {container.left_out} files are of other kinds: convert them to JPEG or PNG"
    return ""


def _in(split: str | None) -> str:
    return f" of {split!r}" if split else ""
