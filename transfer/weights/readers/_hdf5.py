"""What an HDF5 file of Keras holds, found out in a process of its own.

HDF5's library is written in C, and files can be made that hang or crash it; a few in a thousand damaged ones do. Here
that ends a process which has limits on memory and time, and whose answer the reader takes for another claim of the
file (`transfer.weights.readers.keras_file`).
"""

import io
import json
import math
import os
import re
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any

import h5py
import ml_dtypes
import numpy as np

from transfer.errors import TransferError
from transfer.runtime.files.untrusted import (
    DAMAGE_ERRORS,
    DECOMPRESSION_FLOOR,
    DECOMPRESSION_RATIO,
    error_summary,
    printable,
)
from transfer.weights.readers._described import BFLOAT16, HDF5, NUMBERS

# For a small file; HDF5's library and NumPy alone take 0.2 GiB of addresses.
MEMORY = 1 << 30
# Deflate, shuffle, a checksum; others may be code.
FILTERS = {1, 2, 3}
LARGEST_ATTRIBUTE = 1 << 24
# Groups of a model in a model in a model.
DEEPEST = 50

# What TensorFlow 2.12 and 2.13 called `layers`.
EARLY_LAYERS = "_layer_checkpoint_dependencies"

# Names of variables in files of Keras 1 (and, of a depthwise convolution, Keras 2), where they differ from today's.
OLD_VARIABLES = dict(
    W="kernel", b="bias", running_mean="moving_mean", running_std="moving_variance", depthwise_kernel="kernel"
)
# Keras 3 numbers the variables of a layer; their order by the class in the group's name and by their number.
NUMBERED_VARIABLES = {
    ("batch_normalization", 4): ("gamma", "beta", "moving_mean", "moving_variance"),
    ("batch_normalization", 3): ("beta", "moving_mean", "moving_variance"),  # scale=False
    **{(kind, 1): ("kernel",) for kind in ("conv2d", "depthwise_conv2d", "dense")},
    **{(kind, 2): ("kernel", "bias") for kind in ("conv2d", "depthwise_conv2d", "dense")},
}


def main() -> None:
    """`… SIZE CPU_SECONDS [PATH]`: describes the file at PATH, or the `SIZE` bytes of standard input."""
    size, seconds, *path = sys.argv[1:]
    limit(int(size), int(seconds))
    file: Any = path[0] if path else io.BytesIO(sys.stdin.buffer.read())
    answer(file, int(size), sys.stdout.buffer)
    sys.stdout.flush()
    os._exit(0)  # what a damaged file left behind is not to be tidied up


def limit(size: int, seconds: int) -> None:
    """Ends this process, or what it does, at the memory that `size` bytes take and at so many seconds of a core."""
    for kind, most in ((resource.RLIMIT_AS, MEMORY + 4 * size), (resource.RLIMIT_CPU, seconds)):
        hard = resource.getrlimit(kind)[1]
        with suppress(OSError, ValueError):  # macOS has no limit on addresses
            resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def answer(file: Any, size: int, output: IO[bytes]) -> None:
    """Writes a line of JSON, `error` or `tensors` and `network`, and then the bytes of the tensors.

    A tensor is [layer, group, variable, dtype, shape]; `layer`, with the models that it lies in (`vgg16/block1_conv1`),
    is None where the file has only the name of its group. `network` is the JSON of a whole model, if any.
    """
    try:
        with h5py.File(file, "r") as opened:
            variables = [(*names, dataset, _dtype(dataset)) for *names, dataset in _variables(opened, size)]
            tensors = [(*names, dtype.name, dataset.shape) for *names, dataset, dtype in variables]
            model = _text(opened, "model_config")  # where the file holds a model and not weights alone
            header = {"tensors": tensors, "network": model}
            output.write(json.dumps(header).encode() + b"\n")
            for *_, dataset, dtype in variables:
                array = np.asarray(dataset[()])
                array = array if dtype.name == BFLOAT16 else array.astype(dtype.newbyteorder("<"), "C", copy=False)
                output.write(array.reshape(-1).view(np.uint8).data)
    except (TransferError, *DAMAGE_ERRORS, OSError, RuntimeError) as error:
        damage = f"a damaged or truncated {HDF5} file ({error_summary(error)})"
        text = str(error) if isinstance(error, TransferError) else damage
        output.write(json.dumps({"error": text}).encode() + b"\n")


def _variables(file: Any, size: int) -> Iterator[tuple[str | None, str, str, Any]]:
    """(layer, group, variable, dataset), each looked at."""
    root = _child(file, "model_weights") or file
    layers = next((group for name in ("layers", EARLY_LAYERS) if (group := _child(file, name)) is not None), None)
    if "layer_names" in root.attrs or "layer_names0" in root.attrs:
        variables = _legacy(root)
    elif layers is not None:
        variables = _keras3(layers)
    else:
        raise TransferError("an HDF5 file, but not one that Keras writes (no layer_names, no layers)")
    for layer, group, variable, dataset in variables:
        _check(dataset, printable(f"{layer or group}/{variable}"), size)
        yield layer, group, variable, dataset


def _check(dataset: Any, name: str, size: int) -> None:
    """Raises TransferError for anything but numbers of which the file of `size` bytes has as many."""
    if not isinstance(dataset, h5py.Dataset):
        raise TransferError(f"{name} is a group, not numbers")
    if dataset.external or dataset.is_virtual:
        raise TransferError(f"refused: {name} lies in another file, to which this one only points")
    if _dtype(dataset).kind not in NUMBERS and _dtype(dataset).name != BFLOAT16:
        raise TransferError(f"refused: {name} holds {dataset.dtype}, not numbers")
    if dataset.shape is None:
        raise TransferError(f"{name} holds nothing")
    claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = min(dataset.id.get_storage_size(), size)
    if claimed > (DECOMPRESSION_RATIO * stored if dataset.chunks else stored):
        raise TransferError(f"refused: {name} claims {claimed} bytes, and {stored} are there")
    if dataset.chunks:
        properties = dataset.id.get_create_plist()
        filters = {properties.get_filter(number)[0] for number in range(properties.get_nfilters())}
        if math.prod(dataset.chunks) * dataset.dtype.itemsize > DECOMPRESSION_FLOOR or filters - FILTERS:
            raise TransferError(f"refused: {name} is compressed in a way that is not supported")


def _child(group: Any, name: str, listed_as: str = "") -> Any:
    """The member `name` of a group, None or TransferError where one that is `listed_as` something is not there.

    No link is followed that only names where it leads to, which opens other files.
    """
    for part in filter(None, name.split("/")):
        if not isinstance(group, h5py.Group) or part == "." or part not in group:
            if listed_as:
                raise TransferError(f"it lists {printable(name)} as a {listed_as}, but does not hold it")
            return None
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            text = f"refused: {printable(name)} lies in another file or place, to which this one only points"
            raise TransferError(text)
        group = group[part]
    return group


def _dtype(dataset: Any) -> np.dtype:
    # HDF5 has no bfloat16; Keras says so in an attribute
    is_bfloat16 = _text(dataset, "dtype") == BFLOAT16 and dataset.dtype.itemsize == 2
    return np.dtype(ml_dtypes.bfloat16) if is_bfloat16 else dataset.dtype


def _legacy(root: Any) -> Iterator[tuple[str | None, str, str, Any]]:
    for layer in _names(root, "layer_names"):
        group = _child(root, layer, "layer")
        for weight in _names(group, "weight_names"):
            yield *_variable(layer, weight), _child(group, weight, f"variable of layer {printable(layer)}")


def _names(group: Any, attribute: str) -> list[str]:
    """An attribute that is a list of names; Keras splits one too long for HDF5 into `NAME0`, `NAME1`, …"""
    keys = [attribute]
    if attribute not in group.attrs:
        keys = [key for key in group.attrs if re.fullmatch(rf"{attribute}\d+", key)]
    parts = [_attribute(group, key) for key in sorted(keys, key=lambda key: (len(key), key))]
    names = [n.decode("utf-8") if isinstance(n, bytes) else str(n) for part in parts for n in part]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise TransferError(f"its {attribute} name {printable(twice[0])} twice")
    return names


def _attribute(item: Any, name: str) -> Any:
    """An attribute, looked at before there is memory for it."""
    stored = item.attrs.get_id(name)
    if math.prod(stored.shape or ()) * max(stored.dtype.itemsize, 1) > LARGEST_ATTRIBUTE:
        where = f"{printable(name)} of {printable(item.name)}"
        raise TransferError(f"refused: the attribute {where} claims shape {stored.shape}")
    return item.attrs[name]


def _text(item: Any, name: str) -> str | None:
    value = _attribute(item, name) if name in item.attrs else None
    return value.decode("utf-8") if isinstance(value, bytes) else value if isinstance(value, str) else None


def _variable(layer: str, weight: str) -> tuple[str, str, str]:
    """(layer, group, variable) from names such as `conv1/kernel:0`, `vgg16/conv1/kernel`, `conv1_W_1:0` (Keras 1)."""
    *scopes, leaf = weight.split(":")[0].split("/")
    owner = scopes[-1] if scopes else layer
    leaf = re.sub(r"_\d+$", "", leaf.removeprefix(f"{owner}_"))
    return (owner if owner == layer else f"{layer}/{owner}"), layer, OLD_VARIABLES.get(leaf, leaf)


def _keras3(layers: Any) -> Iterator[tuple[str | None, str, str, Any]]:
    for group in _variable_groups(layers, 0):
        parent = str(group.parent.name).replace(EARLY_LAYERS, "layers")
        kind = re.sub(r"_\d+$", "", parent.split("/")[-1])
        names = NUMBERED_VARIABLES.get((kind, len(group)), tuple(map(str, range(len(group)))))
        for i, variable in enumerate(names):
            # the group's own name counts layers of a class (conv2d_7); the layer's name is an attribute
            yield (
                _path(layers, group, parent),
                parent,
                variable,
                _child(group, str(i), f"variable of {printable(parent)}"),
            )


def _path(layers: Any, group: Any, parent: str) -> str | None:
    """The name of the layer whose `vars` a group is, with those of the models that it lies in; None if it has none."""
    outer, names, name = layers, [], _text(group, "name")
    for part in parent.removeprefix(str(layers.name)).strip("/").split("/layers/")[:-1]:
        outer = _child(outer, part)
        names.append(_text(own, "name") if (own := _child(outer, "vars")) is not None else None)
        outer = _child(outer, "layers")
    return "/".join([*(each or "" for each in names), name]) if name is not None else None


def _variable_groups(group: Any, depth: int) -> Iterator[Any]:
    """The groups `vars`, in the order of names; HDF5's own walk overflows its stack in a deep file."""
    if depth > DEEPEST:
        raise TransferError(f"refused: groups more than {DEEPEST} deep")
    for name in group:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.HardLink):
            item = group[name]
            if name == "vars" and isinstance(item, h5py.Group):
                yield item
            elif isinstance(item, h5py.Group):
                yield from _variable_groups(item, depth + 1)
