"""Keras' files as `layer/variable`: legacy weights, legacy full models and Keras 3's `.weights.h5` are HDF5 files.

What is in them is found out by a process of its own (`_hdf5`), and here only put together. Keras 3's `.keras` is a zip
with such weights in `model.weights.h5` and the names of layers in `config.json`.
"""

import json
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import IO, Any

import ml_dtypes
import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files import archives
from transfer.runtime.files.untrusted import decompression_limit, printable
from transfer.weights.readers import Format
from transfer.weights.readers._described import BFLOAT16, HDF5, NUMBERS, Described

WEIGHTS, CONFIG = "model.weights.h5", "config.json"
MAGIC = b"\x89HDF\r\n\x1a\n"
ROOT = Path(__file__).parents[3]
CHILD = "import sys; sys.path.insert(0, {!r}); from transfer.weights.readers import _hdf5; _hdf5.main()"
# Of a core; a file of 500 MB takes two.
CPU_SECONDS, BYTES_A_SECOND = 10, 50_000_000
LONGEST_ANSWER = 1 << 26


def read_h5(path: Path | bytes, layer_names: Mapping[str, str] | None = None) -> Described:
    """All variables of all layers, as `block1_conv1/kernel`, `conv1_bn/moving_variance`.

    Where two layers in models of their own have one name, all have the models' before it: `vgg16/block1_conv1/kernel`.

    `path` is the file, or what is in it; an optimiser's state is left out. `layer_names` (group `/layers/conv2d_7` ->
    name of the layer) are for files of early Keras 3, which lack them.
    """
    content, file = (path, []) if isinstance(path, bytes) else (b"", [str(path.absolute())])
    size = len(path) if isinstance(path, bytes) else path.stat().st_size
    limits = [str(size), str(CPU_SECONDS + size // BYTES_A_SECOND)]
    command = [sys.executable, "-c", CHILD.format(str(ROOT)), *limits, *file]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL) as process:
        assert process.stdin and process.stdout
        try:
            with suppress(BrokenPipeError), process.stdin:
                process.stdin.write(content)
            return assembled(process.stdout, size, layer_names or {})
        finally:
            process.kill()


def assembled(answer: IO[bytes], size: int, layer_names: Mapping[str, str]) -> Described:
    """The arrays of an answer (`_hdf5.answer`), which is believed no more than the file of `size` bytes."""
    line = answer.readline(LONGEST_ANSWER)
    if not line.endswith(b"\n"):
        raise TransferError(f"a damaged {HDF5} file: HDF5's own library crashed or went on for ever over it")
    header = json.loads(line)
    if "error" in header:
        raise TransferError(str(header["error"]))
    arrays: dict[str, np.ndarray] = {}
    bytes_left = limit = decompression_limit(size)
    for layer, group, variable, dtype, shape in header["tensors"]:
        layer = layer or layer_names.get(group)
        if layer is None:
            raise TransferError("written by an early Keras 3, which leaves out the names of layers; save it as .keras")
        name = f"{layer}/{variable}"
        if name in arrays:
            raise TransferError(f"it holds {printable(name)} twice")
        kind = np.dtype(ml_dtypes.bfloat16) if dtype == BFLOAT16 else np.dtype(str(dtype)).newbyteorder("<")
        if (kind.kind not in NUMBERS and dtype != BFLOAT16) or not all(int(side) >= 0 for side in shape):
            raise TransferError(f"{printable(name)} is of an unknown type")
        length = math.prod(map(int, shape)) * kind.itemsize
        bytes_left -= length
        if bytes_left < 0:
            raise TransferError(f"refused: its variables take more than {limit} bytes")
        raw = answer.read(length)
        if len(raw) != length:
            raise TransferError(f"a damaged or truncated {HDF5} file ({printable(name)} ends early)")
        arrays[name] = np.frombuffer(raw, kind).reshape(shape)
    short = {name: "/".join(name.split("/")[-2:]) for name in arrays}
    if len(set(short.values())) == len(short):  # the names of the models that layers lie in say nothing more
        arrays = {short[name]: array for name, array in arrays.items()}
    network = header["network"]
    return Described(arrays, network=None if network is None else json.loads(network))


def read_archive(path: Path) -> Described:
    """All variables of a `.keras` file, checksums of the zip verified."""
    with path.open("rb") as file, archives.open_zip(file) as archive:
        config = json.loads(archive.read(CONFIG) if CONFIG in archive else b"{}")
        tensors = read_h5(archive.read(WEIGHTS), dict(layer_names(config)))
    return Described(tensors, network=config or None)


def layer_names(model: Mapping[str, Any], parent: str = "") -> Iterator[tuple[str, str]]:
    """HDF5 group -> layer name: Keras numbers the layers of a class in the order of the model's config."""
    count: Counter[str] = Counter()
    for layer in model.get("config", {}).get("layers", ()):
        # `BatchNormalization` -> `batch_normalization`, `Conv2D` -> `conv2d`, as Keras does it
        words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", layer["class_name"])
        kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
        group = f"{parent}/layers/{kind}" + (f"_{count[kind]}" if count[kind] else "")
        count[kind] += 1
        yield group, layer["config"]["name"]
        yield from layer_names(layer, group)


FORMATS = (
    Format("Keras .keras", lambda head, members: WEIGHTS in members, read_archive),
    Format(HDF5, lambda head, members: head.startswith(MAGIC), read_h5),
)
