"""Zips that unpack to what no machine holds, lie about their members, or lead out of their folder."""

import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.campaigns.hostile_file import (
    BOMB,
    LABELS,
    PNG,
    File,
    features,
    features_in_zip,
    image_in_zip,
    images,
    npy,
    pack,
    packed,
    signs_in_zip,
    too_many,
    weights,
)
from tests.campaigns.hostile_tensors import storage, tensor
from tests.campaigns.opcodes import number

FOUR_GIGABYTES = 0xFFFFFFFE


def state(numel: int) -> bytes:
    """The pickle of a `.pth` whose storage `0` has so many elements."""
    return tensor(of=storage(numel=number(numel))) + b"."


def bombs() -> Iterator[File]:
    """Each reader of zips, with 300 MB of zeros in its place."""
    unpacks = ("unpacks",)
    yield File("a bomb of features", packed("a.zip", {"a.p": BOMB}), features_in_zip, unpacks)
    yield File("a bomb of an array", packed("a.npz", {"features.npy": BOMB}), features, unpacks)
    yield File("a bomb of images", packed("a.npz", {"images.npy": BOMB, "labels.npy": LABELS}), images, unpacks)
    yield File("a bomb of traffic signs", packed("a.zip", {"train.p": BOMB}), signs_in_zip, unpacks)
    yield File("a bomb of an image", packed("a.zip", {"x/1.png": BOMB}), image_in_zip, unpacks)
    tensors = {"a/data.pkl": state(too_many() // 4), "a/data/0": BOMB}
    yield File("a bomb of a storage", packed("a.bin", tensors), weights, unpacks)
    yield File("a bomb of a pickle", packed("a.bin", {"a/data.pkl": BOMB}), weights, unpacks)
    yield File("a bomb of Keras weights", packed("a.bin", {"model.weights.h5": BOMB}), weights, unpacks)
    config = {"model.weights.h5": b"x", "config.json": BOMB}
    yield File("a bomb of a Keras config", packed("a.bin", config), weights, unpacks)
    deep = {"model.weights.h5": b"x", "config.json": b"[" * 1_000_000}
    yield File("a deep Keras config", packed("a.bin", deep), weights, ("RecursionError",))
    yield File("members over one another", overlapping, features, ("damaged", "unpack"))


def lies() -> Iterator[File]:
    """Members that say another size, method or place."""
    said = ("unpacks", "is said to", "damaged", "bytes for")
    sizes = {"unpack to": partial(claim, size=FOUR_GIGABYTES), "take": partial(claim, size=9, takes=FOUR_GIGABYTES)}
    members: dict[Callable[[Path], object], tuple[str, dict[str, bytes]]] = {
        features_in_zip: ("a.zip", {"a.p": b"N."}),
        features: ("a.npz", {"features.npy": npy()}),
        image_in_zip: ("a.zip", {"x/1.png": PNG}),
        weights: ("a.bin", {"a/data.pkl": state(4), "a/data/0": bytes(16)}),
    }
    for read, (name, content) in members.items():
        for title, change in sizes.items():
            yield File(f"{read.__name__}, said to {title} four gigabytes", packed(name, content, change), read, said)
        yield File(f"{read.__name__}, encrypted", packed(name, content, encrypted), read, ("encrypted",))
        far = packed(name, content, past_the_end)
        yield File(f"{read.__name__}, with its directory past the end", far, read, ("damaged", "not a weight file"))

        def by_bzip2(folder: Path, name: str = name, content: dict[str, bytes] = content) -> None:
            pack(folder / name, content, zipfile.ZIP_BZIP2)

        yield File(f"{read.__name__}, by another method", by_bzip2, read, ("method",))


def escapes() -> Iterator[File]:
    """Names that lead out of the folder: nothing is unpacked onto the disk, so they are names and no more."""
    for path in ("../a.p", "/a.p", "..\\a.p", "C:\\a.p", "./a.p"):
        yield File(f"the member {path!r}", packed("a.zip", {path: b"N."}), features_in_zip, ("has no member",))
    for path in ("../../x/1.png", "/x/1.png", "x/../../../1.png", "x/\x1b[2J1.png"):
        said = ("not a readable image", "no images")
        yield File(f"the image {path!r}", packed("a.zip", {path: PNG}), image_in_zip, said)


def claim(path: Path, size: int, takes: int | None = None) -> None:
    """Lets the last member of a zip say that it unpacks to `size` bytes, and takes others."""
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", size)
    if takes is not None:
        data[at + 20 : at + 24] = struct.pack("<I", takes)
    path.write_bytes(data)


def overlapping(folder: Path) -> None:
    """A directory of a thousand members that all have the same ten megabytes."""
    path = pack(folder / "a.npz", {"features.npy": 10 << 20})
    data = path.read_bytes()
    start, end = data.rindex(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    entry = data[start:end]
    many = b"".join(entry.replace(b"features.npy", b"%08d.npy" % i) for i in range(999)) + entry
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1000, 1000, len(many), start, 0)
    path.write_bytes(data[:start] + many + tail)


def encrypted(path: Path) -> None:
    """Sets the flag."""
    data = bytearray(path.read_bytes())
    for position in range(len(data)):
        if data.startswith(b"PK\x01\x02", position):
            data[position + 8] |= 1
    path.write_bytes(data)


def past_the_end(path: Path) -> None:
    """A directory of two gigabytes, two gigabytes further on."""
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x05\x06")
    data[at + 12 : at + 20] = b"\xff\xff\xff\x7f" * 2
    path.write_bytes(data)


def files() -> list[File]:
    """All of them."""
    return [*bombs(), *lies(), *escapes()]
