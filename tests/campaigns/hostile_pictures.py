"""Images that claim to be larger than memory, or that take for ever; folders that never end."""

import io
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tests.campaigns.hostile_file import PNG, File, chunk, image, written

SIDE = 60_000
# Of zeros, in a chunk of a PNG; Pillow stops at 64 MB.
UNPACKING = 70 << 20


def case(name: str, extension: str, content: bytes, *says: str) -> File:
    """A folder with one image in it."""
    return File(name, written(f"x/1{extension}", content), image, says)


def png(width: int, height: int, colours: int = 2, more: bytes = b"") -> bytes:
    """A PNG of that size with data for a few pixels, and `more` chunks before them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(768)) if colours == 3 else b""
    return PNG + header + more + palette + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def jpeg(scans: int = 0, size: tuple[int, int] = (64, 64)) -> bytes:
    """A progressive JPEG of 64 pixels a side, said to be of another size, its last scan repeated so many times."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "JPEG", progressive=True)
    data = bytearray(stream.getvalue())
    at = data.index(b"\xff\xc2")
    data[at + 5 : at + 9] = struct.pack(">HH", *size)
    return bytes(data[:-2]) + bytes(data[data.rindex(b"\xff\xda") : -2]) * scans + b"\xff\xd9"


def pngs() -> Iterator[File]:
    """By their header, and by chunks that unpack."""
    for colours in (0, 2, 3, 4, 6):
        yield case(f"a PNG of {SIDE} a side, colour type {colours}", ".png", png(SIDE, SIDE, colours), "pixels")
    yield case("a PNG of two thousand million a side", ".png", png((1 << 31) - 1, (1 << 31) - 1), "pixel")
    yield case("a PNG of no pixels", ".png", png(0, 0), "1.png")
    zeros = b"a\0\0" + zlib.compress(bytes(UNPACKING))
    yield case("a PNG of text that unpacks", ".png", png(64, 64, more=chunk(b"zTXt", zeros)), "1.png")
    yield case("a PNG of a profile that unpacks", ".png", png(64, 64, more=chunk(b"iCCP", zeros)), "1.png")
    yield case("a PNG of a chunk of four gigabytes", ".png", png(1, 1)[:33] + b"\xff\xff\xff\xfftEXt", "1.png")


def others() -> Iterator[File]:
    """JPEGs and PPMs."""
    yield case("a JPEG of 65535 a side", ".jpg", jpeg(size=(65535, 65535)), "pixels")
    yield case("a JPEG of a thousand scans", ".jpg", jpeg(1000, (8000, 8000)), "scans")
    yield case("a JPEG without its data", ".jpg", jpeg()[:200], "1.jpg")
    for kind in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"):
        yield case(f"a {kind.decode()} of {SIDE} a side", ".ppm", kind + b" 60000 60000 255\n", "pixels")
        yield case(f"a {kind.decode()} of a terabyte", ".ppm", kind + b" 1099511627776 1 255\n", "1.ppm")
    yield case("a PPM of digits without end", ".ppm", b"P6 " + b"9" * 100_000 + b" 1 255\n", "1.ppm")
    yield case("a PPM of comments", ".ppm", b"P3 2000 2000 255\n" + b"#\n" * 3_000_000, "PPM in text")
    yield case("a PPM of comments in its header", ".ppm", b"P6\n#" + b"x" * 20_000_000, "1.ppm")


def pipes(folder: Path) -> None:
    """What opens and never ends, under the names of images."""
    (folder / "x").mkdir()
    for name in ("1.png", "2.ppm"):
        os.mkfifo(folder / "x" / name)


def device(folder: Path) -> None:
    """A device without an end, under the name of an image."""
    (folder / "x").mkdir()
    (folder / "x" / "1.ppm").symlink_to("/dev/zero")


def loops(folder: Path) -> None:
    """Links that lead back up, more ways than there is time for."""
    for name in ("a", "b"):
        (folder / name).mkdir()
        for other in range(3):
            (folder / name / f"{other}").symlink_to(folder)


def files() -> list[File]:
    """All of them."""
    folders = [
        File("pipes as images", pipes, image, ("no images",)),
        File("a device as an image", device, image, ("no images",)),
        File("links to the folder above", loops, image, ("link to a folder",)),
    ]
    return [*pngs(), *others(), *folders]
