"""Keras' files as `layer/variable`: legacy weights, legacy full models and Keras 3's `.weights.h5` are HDF5 files.

What is in them is found out by a process of its own (`_hdf5`), and here only put together. Keras 3's `.keras` is a zip
with such weights in `model.weights.h5` and the names of layers in `config.json`.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files import archives
from transfer.runtime.files.sandbox import HDF5_MAGIC, SandboxedArray, SandboxedFile
from transfer.runtime.files.untrusted import decompression_limit, printable
from transfer.weights.readers import Format
from transfer.weights.readers._described import HDF5, Described

PROCESS = "transfer.weights.readers._hdf5"
WEIGHTS, CONFIG = "model.weights.h5", "config.json"


def read_h5(path: Path | bytes, layer_names: Mapping[str, str] | None = None) -> Described:
    """All variables of all layers, as `block1_conv1/kernel`, `conv1_bn/moving_variance`.

    Where two layers in models of their own have one name, all have the models' before it: `vgg16/block1_conv1/kernel`.

    `path` is the file, or what is in it; an optimiser's state is left out. `layer_names` (group `/layers/conv2d_7` ->
    name of the layer) are for files of early Keras 3, which lack them.
    """
    file = SandboxedFile(path if isinstance(path, bytes) else str(path), PROCESS, HDF5)
    arrays: dict[str, np.ndarray] = {}
    bytes_left = limit = decompression_limit(file.size)
    for layer, group, variable, *described in file.holds["variables"]:
        layer = layer or (layer_names or {}).get(group)
        if layer is None:
            raise TransferError("written by an early Keras 3, which leaves out the names of layers; save it as .keras")
        name = f"{layer}/{variable}"
        if name in arrays:
            raise TransferError(f"it holds {printable(name)} twice")
        array = SandboxedArray(file, *described)
        bytes_left -= array.nbytes
        if bytes_left < 0:
            raise TransferError(f"refused: its variables take more than {limit} bytes")
        arrays[name] = array[:]
    short = {name: "/".join(name.split("/")[-2:]) for name in arrays}
    if len(set(short.values())) == len(short):  # the names of the models that layers lie in say nothing more
        arrays = {short[name]: array for name, array in arrays.items()}
    network = file.holds["network"]
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
    Format(HDF5, lambda head, members: head.startswith(HDF5_MAGIC), read_h5),
)
