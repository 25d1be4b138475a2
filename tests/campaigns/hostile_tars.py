"""CIFAR archives that are bombs, hold links, devices and holes, or never end."""

import io
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import google_crc32c

from tests.campaigns.hostile_file import TERA, File, cifar, image_in_tar, too_many
from transfer.data import open_source

ARCHIVE, BATCH = "a.tar.gz", "cifar-10-batches-py/data_batch_1"


class Zeros(io.RawIOBase):
    """So many zeros."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.left = size

    def read(self, size: int = -1) -> bytes:
        count = self.left if size < 0 else min(size, self.left)
        self.left -= count
        return bytes(count)


def tar(info: tarfile.TarInfo, mode: str = "w:gz") -> Callable[[Path], None]:
    """What writes an archive of one member, of zeros."""

    def make(folder: Path) -> None:
        with tarfile.open(folder / ARCHIVE, mode) as archive:  # type: ignore[call-overload]
            archive.addfile(info, Zeros(info.size) if info.isreg() else None)

    return make


def member(name: str = BATCH, size: int = 4, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    """A member, whose link leads to what must not be read."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, "/etc/passwd"
    return info


def raw(content: bytes) -> Callable[[Path], object]:
    """What writes an archive of these bytes."""
    return lambda folder: (folder / ARCHIVE).write_bytes(content)


def files() -> Iterator[File]:
    """All of them."""
    for packing in ("gz", "bz2", "xz"):
        yield File(
            f"a bomb by {packing}", tar(member(size=too_many()), f"w:{packing}"), cifar, ("unpacks", "data_batch_1")
        )
    kinds = {"symbolic link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE}
    kinds |= {"device": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE, "folder": tarfile.DIRTYPE}
    for title, kind in kinds.items():
        yield File(f"a {title} as a batch", tar(member(size=0, kind=kind)), cifar, ("lacks data_batch_1",))
    sparse = member(size=512, kind=tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT) + bytes(512)
    yield File("a file with holes as a batch", raw(sparse + bytes(1024)), cifar, ("with holes",))
    for name in ("../../data_batch_1", "/data_batch_1", "/etc/passwd", "..\\..\\data_batch_1"):
        yield File(f"the member {name}", tar(member(name)), cifar, ("data_batch_1",))
    huge = member(size=TERA).tobuf(tarfile.GNU_FORMAT)
    yield File("a member of a terabyte", raw(huge + b"\x80\x05"), cifar, ("ends early",))
    yield File("a member of a negative size", raw(negative()), cifar, ("no header",))
    yield File("headers that extend others", raw(extended()), cifar, ("lacks data_batch_1",))
    yield File("members without end", raw(member("x", 0).tobuf() * 20_000), cifar, ("lacks data_batch_1",))
    yield File("half a header", raw(member().tobuf()[:300]), cifar, ("no header",))


def of_images() -> Iterator[File]:
    """Of a folder of images, whose tar is not packed."""

    def plain(content: bytes) -> Callable[[Path], object]:
        return lambda folder: (folder / "a.tar").write_bytes(content)

    name = "x/1.png"
    yield File("a record of a terabyte", claims_record(TERA), image_in_record, ("ends early",))
    yield File(
        "an image of a terabyte", plain(member(name, TERA).tobuf(tarfile.GNU_FORMAT)), image_in_tar, ("ends early",)
    )
    for title, kind in {
        "symbolic link": tarfile.SYMTYPE,
        "hard link": tarfile.LNKTYPE,
        "pipe": tarfile.FIFOTYPE,
    }.items():
        content = member(name, 0, kind).tobuf() + bytes(1024)
        yield File(f"a {title} as an image in a tar", plain(content), image_in_tar, ("no images",))
    yield File("headers of images that extend others", plain(extended()), image_in_tar, ("damaged", "no images"))
    for path in ("../../x/1.png", "/x/1.png", "x/../../../1.png"):
        content = member(path, 512).tobuf() + bytes(1536)
        yield File(f"the image {path} of a tar", plain(content), image_in_tar, ("not a readable image", "no images"))


def image_in_record(folder: Path) -> object:
    return open_source(f"tfrecord:{folder / 'a.tfrecord'}").image(0)


def claims_record(size: int) -> Callable[[Path], object]:
    """What writes a TFRecord file whose record is said to be so large, with the right checksum of that."""
    length = struct.pack("<Q", size)
    value = google_crc32c.value(length)
    check = ((value >> 15 | value << 17) + 0xA282EAD8) % (1 << 32)
    return lambda folder: (folder / "a.tfrecord").write_bytes(length + struct.pack("<I", check) + bytes(64))


def extended() -> bytes:
    """Pax headers over which a pattern of `tarfile` goes for ever, and long names in long names."""
    digits = b"1" * 1_000_000
    pax = member("x", len(digits), tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT) + digits + bytes(-len(digits) % 512)
    long = member("././@LongLink", 1, tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT) + bytes(512)
    return pax * 3 + long * 5000


def negative() -> bytes:
    """A size of -512, as GNU's tar writes numbers that do not fit; it would send the reader back."""
    header = bytearray(member().tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)
