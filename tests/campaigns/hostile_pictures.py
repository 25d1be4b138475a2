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


def tiff(width: int, height: int, more: list[tuple[int, int, int, int]], tail: bytes = b"") -> bytes:
    """A TIFF of grey without its pixels, `more` tags (tag, type, count, value) in it, and `tail` behind it."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    tags = sorted([*tags, (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, width * height & 0xFFFFFFFF), *more])
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + tail


def webp(kind: bytes, size: bytes) -> bytes:
    """A WebP of one chunk, whose first bytes say its size."""
    chunk_ = kind + struct.pack("<I", 64) + size.ljust(64, b"\0")
    return b"RIFF" + struct.pack("<I", 4 + len(chunk_)) + b"WEBP" + chunk_


def jpeg2000(side: int, tile: int) -> bytes:
    """The header of a JPEG 2000 of one colour, of tiles of `tile` pixels a side."""
    size = struct.pack(">HIIIIIIIIHBBB", 0, side, side, 0, 0, tile, tile, 0, 0, 1, 7, 1, 1)
    coding = bytes([0, 0, 0, 1, 0, 5, 4, 4, 0, 1])
    marks = ((b"\xff\x51", size), (b"\xff\x52", coding), (b"\xff\x5c", bytes([0x40]) + bytes(16)))
    body = b"".join(mark + struct.pack(">H", len(content) + 2) + content for mark, content in marks)
    return b"\xff\x4f" + body + b"\xff\x90" + struct.pack(">HHIBB", 10, 0, 14, 0, 1) + b"\xff\x93\xff\xd9"


def boxed(kind: str) -> bytes:
    """An AVIF or HEIC that claims another size than it has."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, kind)
    return stream.getvalue().replace(struct.pack(">II", 64, 64), struct.pack(">II", SIDE, SIDE))


def newer() -> Iterator[File]:
    """Formats beside these."""
    bmp = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, SIDE, SIDE, 1, 24, 0, 0, 0, 0, 0, 0)
    yield case(f"a BMP of {SIDE} a side", ".bmp", bmp, "pixels")
    packed = bmp[:28] + struct.pack("<HI", 8, 1) + bmp[34:]
    yield case("a packed BMP of 9000 a side", ".bmp", packed.replace(struct.pack("<i", SIDE), struct.pack("<i", 9000)))
    yield case("a GIF of 65535 a side", ".gif", b"GIF89a\xff\xff\xff\xff\0\0\0", "1.gif")
    yield case(
        "a GIF of a frame of 65535", ".gif", b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\1\0\0;", "pixels"
    )
    yield case(f"a TIFF of {SIDE} a side", ".tif", tiff(SIDE, SIDE, []), "pixels")
    yield case("a TIFF of two thousand million a side", ".tif", tiff((1 << 31) - 1, (1 << 31) - 1, []), "pixel")
    yield case("a TIFF without its pixels", ".tif", tiff(4000, 4000, []), "1.tif")
    megabyte = bytes(1 << 20)
    over = [(tag, 7, 1 << 20, 8) for tag in range(40_000, 50_000)]
    overlapping = written("x/1.tif", tiff(4, 4, over, megabyte))
    yield File("a TIFF of tags over one another", overlapping, image, ("1.tif",), reads=True)
    tiles = [(322, 4, 1, 1 << 31), (323, 4, 1, 1 << 31), (324, 4, 1, 8), (325, 4, 1, 8)]
    yield File("a TIFF of a tile of an exabyte", written("x/1.tif", tiff(4, 4, tiles)), image, ("1.tif",), reads=True)
    yield case("a WebP of 16384 a side", ".webp", webp(b"VP8X", bytes(4) + b"\xff\x3f\0\xff\x3f\0"), "1.webp")
    yield case("a WebP without loss of 16384 a side", ".webp", webp(b"VP8L", b"\x2f" + b"\xff" * 4), "1.webp")
    yield case(f"a JPEG 2000 of {SIDE} a side", ".jp2", jpeg2000(SIDE, SIDE), "pixels")
    yield case("a JPEG 2000 of millions of tiles", ".jp2", jpeg2000(4000, 1), "1.jp2")
    for kind in ("AVIF", "HEIF"):
        yield case(f"an {kind} of {SIDE} a side", f".{kind.lower()}", boxed(kind), "1.")


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
    return [*pngs(), *others(), *newer(), *folders]
