"""What holds the files of a data set: a folder, a zip or a tar; each lists them, and reads them from any thread.

A container has three methods: `entries()` lists every file and folder that is not hidden; `read(locator, limit)` gives
the bytes of a file, or about the first `limit`, and raises OSError or ValueError; `stamp(locator)` is a number that
changes when the file may have been written to, or None where the listing tells all content.
"""

import contextlib
import functools
import os
import stat
import struct
import zipfile
import zlib
from typing import Any

from transfer.data import formats
from transfer.data.layout import Entry
from transfer.errors import TransferError
from transfer.runtime import distributed
from transfer.runtime.files import archives, tars
from transfer.runtime.files.untrusted import printable

# What systems and network drives leave in folders, in lower case: thumbnails, what was deleted, what was found.
SYSTEM_NAMES = (
    "__macosx", "thumbs.db", "desktop.ini", "@eadir", "#recycle", "$recycle.bin", "lost+found",
    "system volume information",
)  # fmt: skip
# The first bytes of archives that are not read by position -> what they are, and what makes a folder of them.
PACKED = {
    b"\x1f\x8b": ("packed by gzip", "tar -xzf"),
    b"BZh": ("packed by bzip2", "tar -xjf"),
    b"\xfd7zXZ": ("packed by xz", "tar -xJf"),
    b"\x28\xb5\x2f\xfd": ("packed by zstd", "tar --zstd -xf"),
    b"7z\xbc\xaf": ("a 7z archive", "7z x"),
    b"Rar!": ("a RAR archive", "unrar x"),
}
TAR_MAGIC_AT = 257
UTF8_NAME = 1 << 11  # the flag of a zip's member
UNREADABLE = b"unreadable"
OF_DOS = 0  # a zip that was made on Windows


def open_container(path: str) -> "Folder | Zip | Tar":
    """The container at `path`; TransferError, which does not name it, for what is none."""
    if os.path.isdir(path):
        return Folder(path)
    with open(path, "rb") as file:
        head = file.read(tars.BLOCK)
    if head[TAR_MAGIC_AT:].startswith(b"ustar"):
        return Tar(path)
    for start, (what, command) in PACKED.items():
        if head.startswith(start):
            raise TransferError(
                f"{what}, which cannot be read out of order: unpack it once ({command} {os.path.basename(path)}) and "
                "give the folder"
            )
    if formats.of(head) is not None:
        raise TransferError("one image; give the folder of class folders that it lies in")
    return Zip(path)


class Folder:
    """Files on disk."""

    def __init__(self, path: str) -> None:
        self.path = path

    def entries(self) -> list[Entry]:
        """Every file and every folder below; of several processes one asks the storage for them."""
        if distributed.process_count() == 1:
            return self._entries()
        listing = distributed.asked_once(
            lambda: [(e.parts, e.identity.decode(), e.is_folder, e.locator is not None) for e in self._entries()],
            "listing",  # of copies that may lie elsewhere on each machine
        )
        return [
            Entry(tuple(parts), identity.encode(), is_folder, os.path.join(self.path, *parts) if is_read else None)
            for parts, identity, is_folder, is_read in listing
        ]

    def _entries(self) -> list[Entry]:
        entries: list[Entry] = []
        # each with the folders that it lies in, or links that point back up would go on for ever
        waiting: list[tuple[tuple[str, ...], str, tuple[tuple[int, int], ...]]] = [((), self.path, ())]
        while waiting:
            parts, folder, above = waiting.pop()
            status = os.stat(folder)
            inode = (status.st_dev, status.st_ino)
            if inode in above:
                raise TransferError(f"{printable(folder, 200)} is a link to a folder that holds it")
            with os.scandir(folder) as listing:
                for item in listing:
                    if _is_hidden(item.name):
                        continue
                    below = (*parts, item.name)
                    if item.is_dir():
                        waiting.append((below, item.path, (*above, inode)))
                        entries.append(Entry(below, b"", True, item.path))
                    # a pipe might never end; a link to nothing is an image that cannot be read
                    elif formats.is_image(item.name) and (item.is_file() or not os.path.exists(item.path)):
                        entries.append(Entry(below, _identity(item), False, item.path))
                    else:
                        entries.append(Entry(below, b"", False, None))
        return entries

    def read(self, path: str, limit: int | None = None) -> bytes:
        """The bytes of one file, or its first `limit`."""
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("no regular file")
            return file.read(-1 if limit is None else limit)

    def check_same(self, entry: Entry, data: bytes) -> None:
        """Raises TransferError for a file that another process has listed and that is another one here."""
        if not distributed.is_main() and entry.identity not in (UNREADABLE, _identity_of(entry.parts[-1], data)):
            raise TransferError(
                f"{entry.locator} is not the file that process 0 has there; all processes need the same images"
            )

    def stamp(self, path: str) -> int:
        """A number that changes when the file is written to, moved or copied."""
        try:
            return _stamp(os.stat(path))
        except OSError:
            return 0


def _stamp(status: os.stat_result) -> int:
    return hash((status.st_size, status.st_mtime_ns, status.st_ctime_ns))  # of numbers: the same in each process


def _identity(item: os.DirEntry) -> bytes:
    """The identity of an image under its name: its size, and its content where sizes of a geometry are equal."""
    try:
        if not item.name.lower().endswith(formats.ENDINGS["PPM"]):
            return b"%d" % item.stat().st_size
        with open(item.path, "rb") as file:
            return _identity_of(item.name, file.read())
    except OSError:  # a link to nothing, for example: an image that cannot be read, as whoever reads it will say
        return UNREADABLE


def _identity_of(name: str, data: bytes) -> bytes:
    return b"%d" % (zlib.crc32(data) if name.lower().endswith(formats.ENDINGS["PPM"]) else len(data))


class _Archive:
    """An archive that is read by position, so that threads need not take turns."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115 - lives as long as the source
        self.size = os.fstat(self.file.fileno()).st_size


class Zip(_Archive):
    """Members of a zip; TransferError for one that is damaged."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file, archives.open_zip(file) as archive:
            self.members = list(archive.members.values())
        super().__init__(path)

    def entries(self) -> list[Entry]:
        """Every file and every folder in it; TransferError where images are encrypted, or packed in another way."""
        names = list(map(_name, self.members))
        if not any("/" in name for name in names):  # as PowerShell writes them
            names = [name.replace("\\", "/") for name in names]
        entries: dict[tuple[str, ...], Entry] = {}
        for name, member in zip(names, self.members, strict=True):
            folder, _, file = name.rpartition("/")
            parts = _visible(folder)
            if parts is None or _is_hidden(file) or not (file or parts):
                continue
            below, is_read = (*parts, file) if file else parts, not file or formats.is_image(file)
            if file and is_read:
                _check_packing(name, member)
            identity = b"%d:%d" % (member.file_size, member.CRC)
            entries[below] = Entry(below, identity, not file, member if is_read else None)
        return list(entries.values())

    def read(self, member: zipfile.ZipInfo, limit: int | None = None) -> bytes:
        """The bytes of one member, or about its first `limit`."""
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


def _name(member: zipfile.ZipInfo) -> str:
    """The name of a member, with `/` between folders; UTF-8 where it is that but not marked so, as on macOS."""
    name = member.filename
    if not member.flag_bits & UTF8_NAME and not name.isascii():
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/") if member.create_system == OF_DOS else name


def _check_packing(name: str, member: zipfile.ZipInfo) -> None:
    problem = ""
    if member.flag_bits & archives.ENCRYPTED:
        problem = "encrypted"
    elif member.compress_type not in archives.METHODS:
        names: Any = zipfile.compressor_names  # type: ignore[attr-defined]
        problem = f"packed by the method {names.get(member.compress_type, member.compress_type)}, not deflate"
    if problem:
        raise TransferError(f"{printable(name, 200)} is {problem}: unpack the zip once, and give the folder")


class Tar(_Archive):
    """Files of a tar that is not packed; TransferError for one that is damaged."""

    def entries(self) -> list[Entry]:
        """Every file in it, the last of a name; a tar need not list its folders."""
        entries: dict[tuple[str, ...], Entry] = {}
        for name, offset, size in tars.members(self.file, self.size):
            folder, _, file = os.fsdecode(name).rpartition("/")
            parts = _visible(folder)
            if parts is not None and file and not _is_hidden(file):
                below, locator = (*parts, file), (offset, size) if formats.is_image(file) else None
                entries[below] = Entry(below, b"%d" % size, False, locator)
        return list(entries.values())

    def read(self, place: tuple[int, int], limit: int | None = None) -> bytes:
        """The bytes of one file, or its first `limit`."""
        offset, size = place
        wanted = size if limit is None else min(limit, size)
        data = os.pread(self.file.fileno(), wanted, offset)
        if len(data) < wanted:
            raise ValueError("the tar ends early")
        return data

    def stamp(self, place: tuple[int, int]) -> int:
        """A number that changes when the tar is written to, moved or copied."""
        return _stamp(os.stat(self.path))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in SYSTEM_NAMES


@functools.lru_cache(maxsize=4096)  # a folder is asked about once per file
def _visible(folder: str) -> tuple[str, ...] | None:
    """The parts of a path inside an archive; None if one of them is hidden, or leads out."""
    parts = tuple(part for part in folder.split("/") if part not in ("", "."))
    return None if any(map(_is_hidden, parts)) else parts
