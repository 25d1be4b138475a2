"""Headers of `.npy`, `.safetensors` and HDF5 that claim what is not there."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.campaigns.hostile_file import LABELS, PLACES, TERA, File, features, images, npy, packed, weights, written

NPY = {
    "of a terabyte": npy(f"({TERA},)"),
    "of more than a number holds": npy(f"({TERA}, {TERA})"),
    "of a negative size": npy("(-4,)"),
    "of sizes that are text": npy("('a',)"),
    "of no shape": npy("None"),
    "of many axes": npy(f"({'1, ' * 3000})"),
    "of bytes of no length": npy(f"({TERA},)", "'S0'", b""),
    "of raw bytes of no length": npy(f"({TERA},)", "'V0'", b""),
    "of objects": npy("(2,)", "'|O'"),
    "of records": npy("(2,)", "[('a', '<f4'), ('b', '<f4')]"),
    "of records of objects": npy("(2,)", "[('a', '|O')]"),
    "of code": npy("__import__('os').mkdir('x')"),
    "of deep brackets": npy("(" * 4000 + ")" * 4000),
    "of a long sum": npy("(" + "1+" * 4000 + "1,)"),
    "of a power": npy("(9**9**9,)"),
    "of text without an end": npy("('''"),
    "of a later version": npy().replace(b"NUMPY\x01", b"NUMPY\x09"),
    "of a header of a gigabyte": b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 30) + b"{",
    "that ends in its header": npy()[:40],
    "that is none": b"nonsense",
}
TENSOR = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
# title -> (the tensor's entry, the length of the header if it is not the true one)
TENSORS: dict[str, tuple[Any, int | None]] = {
    "a header of a terabyte": (TENSOR, TERA),
    "a header of all": (TENSOR, (1 << 64) - 1),
    "a header of 99 megabytes": (TENSOR, 99_000_000),
    "a tensor of a terabyte": (TENSOR | {"shape": [TERA]}, None),
    "offsets of a terabyte": (TENSOR | {"data_offsets": [0, TERA], "shape": [TERA // 4]}, None),
    "offsets the wrong way round": (TENSOR | {"data_offsets": [16, 0]}, None),
    "a tensor of more than a number holds": (TENSOR | {"shape": [TERA, TERA]}, None),
    "an empty tensor of a terabyte": (TENSOR | {"shape": [TERA, 0], "data_offsets": [0, 0]}, None),
    "an unknown type": (TENSOR | {"dtype": "PyObject"}, None),
    "a deep header": (None, None),
}


def arrays() -> Iterator[File]:
    """Headers of `.npy` and `.safetensors`."""
    for title, content in NPY.items():
        for read, name in ((features, "features.npy"), (images, "images.npy")):
            make = packed("a.npz", {name: content, "labels.npy": LABELS})
            yield File(f"an array {title} as {name}", make, read, ("array",))
    for title, (tensor, length) in TENSORS.items():
        header = json.dumps({"a": tensor}).encode() if tensor else b'{"a":' + b"[" * 1_000_000
        content = struct.pack("<Q", len(header) if length is None else length) + header + bytes(16)
        for read in (weights, features):
            make = written(PLACES[read], content)
            yield File(f".safetensors with {title} for {read.__name__}", make, read, (PLACES[read],))


def case(name: str, fill: Callable[[Any], object], *says: str) -> File:
    """A Keras file whose only variable `fill` puts into its group."""

    def make(folder: Path) -> None:
        with h5py.File(folder / "a.bin", "w") as file:
            file.attrs["layer_names"] = np.array([b"fc"])
            group = file.create_group("fc")
            group.attrs["weight_names"] = np.array([b"k:0"])
            fill(group)

    return File(name, make, weights, says)


def filled(*arguments: Any, **options: Any) -> Callable[[Any], object]:
    """A dataset."""
    return lambda group: group.create_dataset("k:0", *arguments, **options)


def linked(link: Any) -> Callable[[Any], object]:
    """A link in place of a dataset."""
    return lambda group: group.__setitem__("k:0", link)


def hdf5() -> Iterator[File]:
    """Datasets that are not there, in another file, or in themselves."""
    said, chunks = "claims", (1024,)
    yield case("a dataset of a terabyte of chunks that are not there", filled((TERA,), "f4", chunks=chunks), said)
    yield case("a dataset of a terabyte that was never written", filled((TERA,), "f4"), said)
    yield case("a dataset without a limit", filled((TERA,), "f4", chunks=chunks, maxshape=(None,)), said)
    yield case("a dataset of more than fits", filled((1 << 31, 1 << 31), "f4", chunks=(1024, 1024)), said)
    zeros = filled(data=np.zeros(1 << 24, np.float32), chunks=(1 << 20,), compression="gzip")
    yield case("a dataset that unpacks a thousandfold", zeros, said)
    other = "another file"
    yield case("a dataset beside the file", filled((4,), "f4", external=[("/etc/passwd", 0, 16)]), other)
    yield case("a link to a file", linked(h5py.ExternalLink("/etc/passwd", "x")), other)
    yield case("a link to itself", linked(h5py.SoftLink("/fc/k:0")), other)
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    yield case("a virtual dataset", lambda group: group.create_virtual_dataset("k:0", layout), other)
    yield case("text of any length", filled(data=["a", "b"]), "not numbers")
    yield case("references", filled((2,), h5py.ref_dtype), "not numbers")
    yield case("nothing", filled(data=h5py.Empty("f4")), "nothing")
    yield case("one name many times", many_names, "twice")
    yield File("groups without end", endless_groups, weights, ("deep",))
    yield File("groups in one another", knotted_groups, weights, ("deep", "for ever"))


def many_names(group: Any) -> None:
    """A list that names the same variable over and over."""
    group.attrs["weight_names"] = np.array([b"k:0"] * 6000)
    group["k:0"] = np.ones(4, np.float32)


def endless_groups(folder: Path) -> None:
    """One in another, and the last of them holds the first."""
    with h5py.File(folder / "a.bin", "w") as file:
        group = file.create_group("layers")
        for _ in range(60):
            group = group.create_group("a")
        group["up"] = file["layers"]


def knotted_groups(folder: Path) -> None:
    """Each holds both of the next: more ways than there is time for."""
    with h5py.File(folder / "a.bin", "w") as file:
        group = file.create_group("layers")
        for _ in range(40):
            group["b"] = group.create_group("a")
            group = group["a"]


def files() -> list[File]:
    """All of them."""
    return [*arrays(), *hdf5()]
