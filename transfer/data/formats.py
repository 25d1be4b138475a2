"""Which formats of images are read: told by the first bytes of a file, and looked for by the endings of names."""

import functools
from collections.abc import Iterable, Mapping

from transfer.errors import TransferError
from transfer.runtime.distribution import install_hint
from transfer.runtime.files.untrusted import printable

# Pillow's name of a format -> how the names of its files end. All of them can be told by their first bytes: of one that
# cannot, such as TGA, any damaged file might be an image. None runs another program, as EPS does.
ENDINGS: Mapping[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"),
    "AVIF": (".avif", ".avifs"),
    "HEIF": (".heic", ".heif", ".hif"),
}
OF_IMAGES = tuple(ending for endings in ENDINGS.values() for ending in endings)
SPOKEN = "JPEG, PNG, PPM, WebP, BMP, GIF, TIFF, JPEG 2000, AVIF or HEIC"

STARTS: Mapping[bytes, str] = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    **{b"P" + kind.encode(): "PPM" for kind in "0123456fy"},
    b"BM": "BMP",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
    b"\xff\x4f\xff\x51": "JPEG2000",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG2000",
}
# The brands of a file in boxes, the first of which is `ftyp`; a video has others.
BRANDS: Mapping[bytes, str] = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), "HEIF"),
}
OF_ANY_CODEC = (b"mif1", b"msf1")
MOST_BRANDS = 64
# What lies under the names of images and is none -> what it is; in lower case.
STRANGERS: Mapping[bytes, str] = {
    b"<": "it is a web page",
    b"version https://git-lfs": "it is a pointer of Git LFS; `git lfs pull` fetches the image",
    b"/annex/objects": "it is a pointer of git-annex; `git annex get` fetches the image",
    b"%pdf": "it is a PDF",
    b"pk\x03\x04": "it is a zip",
}
MOST_KINDS = 8


def of(data: bytes) -> str | None:
    """The format of an encoded image, as Pillow names it; None for anything else."""
    if data[4:8] == b"ftyp":
        boxed = data[8 : min(int.from_bytes(data[:4], "big"), 16 + 4 * MOST_BRANDS)]
        brands = [boxed[:4], *(boxed[at : at + 4] for at in range(8, len(boxed), 4))]
        if brands[0] not in BRANDS and brands[0] not in OF_ANY_CODEC:
            return None
        return next((BRANDS[brand] for brand in brands if brand in BRANDS), "HEIF")
    if data.startswith(b"RIFF"):
        return "WEBP" if data[8:12] == b"WEBP" else None
    return next((name for start, name in STARTS.items() if data.startswith(start)), None)


@functools.cache
def reads_heif() -> bool:
    """Whether HEIC can be read: its decoder is no part of Pillow, and is added to it here."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener(thumbnails=False)
    return True


def heif_hint() -> str:
    """A line on what to install to read HEIC."""
    return f"HEIC needs pillow-heif: {install_hint('heic')}"


def stranger(data: bytes) -> str:
    """What data of no known format are, as far as their beginning tells."""
    if not data:
        return "the file is empty"
    start = data[:64].lstrip().lower()
    known = next((what for beginning, what in STRANGERS.items() if start.startswith(beginning)), None)
    beginning = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data[:12])
    return f"not {SPOKEN}: {known or f'it begins with {beginning}'}"


def is_image(name: str) -> bool:
    """Whether a file is an image by the ending of its name."""
    return name.lower().endswith(OF_IMAGES)


def check_decoders(name: str, files: Iterable[str]) -> None:
    """Raises TransferError, which begins with `name`, where files need a decoder that is not installed."""
    count = sum(file.lower().endswith(ENDINGS["HEIF"]) for file in files)
    if count and not reads_heif():
        raise TransferError(f"{name}: {count} of the images {'is' if count == 1 else 'are'} HEIC. {heif_hint()}")


def ending(name: str) -> str:
    """How the name of a file ends, in lower case: `.txt`; "without ending" where it does not."""
    stem, dot, end = name.rpartition(".")
    return f".{end.lower()}" if stem and dot and len(end) <= 10 else "without ending"


def counted(kinds: Mapping[str, int]) -> str:
    """Numbers of files by their endings, the most first: `12 .txt, 3 .mp4`."""
    most = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    named = ", ".join(f"{count} {printable(kind)}" for kind, count in most[:MOST_KINDS])
    return f"{named}, …" if len(most) > MOST_KINDS else named
