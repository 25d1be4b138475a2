"""Hostile files other than pickles: what a case is, and what several kinds share."""

import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from transfer.data import open_source
from transfer.runtime.files import untrusted
from transfer.store import feature_files
from transfer.weights import readers

Read = Callable[[], object]
Make = Callable[[Path], object]
TERA = 1 << 40
# In place of the content of a member: more zeros than may be, which pack to a thousandth.
BOMB = -1
BLOCK = bytes(1 << 20)
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class File:
    """Files in a folder, which `make` writes, and what reads them.

    Attributes:
      says: what the error names, one of them.
      reads: there is something harmless in it that may be read.
    """

    name: str
    make: Make
    read: Callable[[Path], object]
    says: tuple[str, ...] = ()
    reads: bool = False


# The readers, of a folder with one file in it.


def features(folder: Path) -> object:
    return feature_files.read(folder / "a.npz")


def features_in_zip(folder: Path) -> object:
    return feature_files.read(folder / "a.zip" / "a.p")


def images(folder: Path) -> object:
    return open_source(f"npz:{folder / 'a.npz'}")


def signs_in_zip(folder: Path) -> object:
    return open_source(f"pickle:{folder / 'a.zip'}", "train")


def weights(folder: Path) -> object:
    return readers.read(folder / "a.bin")


def image_in_zip(folder: Path) -> object:
    return open_source(f"folder:{folder / 'a.zip'}").image(0)


def image_in_tar(folder: Path) -> object:
    return open_source(f"folder:{folder / 'a.tar'}").image(0)


def image(folder: Path) -> object:
    return open_source(f"folder:{folder}").image(0)


def cifar(folder: Path) -> object:
    return open_source(f"cifar10:{folder / 'a.tar.gz'}", "train")


# Where each of them looks.
PLACES = {features: "a.npz", images: "a.npz", weights: "a.bin"}


def too_many() -> int:
    """More bytes than a small file may unpack to."""
    return untrusted.DECOMPRESSION_FLOOR + (44 << 20)


def pack(path: Path, members: Mapping[str, bytes | int], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip; a number stands for so many zeros, BOMB for too many."""
    with zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        for name, content in members.items():
            with archive.open(name, "w") as stream:
                size = too_many() if content == BOMB else content
                for block in [size] if isinstance(size, bytes) else [BLOCK] * (size // len(BLOCK)):
                    stream.write(block)
    return path


def packed(name: str, members: Mapping[str, bytes | int], then: Callable[[Path], object] = lambda path: None) -> Make:
    """What writes a zip called `name` and changes it."""
    return lambda folder: then(pack(folder / name, members))


def written(name: str, content: bytes) -> Make:
    """What writes the file `name`."""

    def make(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    return make


def npy(shape: str = "(2, 2)", descr: str = "'<f4'", data: bytes = bytes(16)) -> bytes:
    """A `.npy` with whatever header."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


LABELS = npy("(2,)", "'<i8'")


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
