"""Keras' HDF5 files: legacy weights, legacy full models, and Keras 3's `.weights.h5`, all as `layer/variable`."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from transfer.errors import TransferError

FORMAT = "Keras .h5"
MAGIC = b"\x89HDF\r\n\x1a\n"

# What TensorFlow 2.12 and 2.13 called `layers`.
EARLY_LAYERS = "_layer_checkpoint_dependencies"

# Names of variables in files of Keras 1 (and, of a depthwise convolution, Keras 2), where they differ from today's.
OLD_VARIABLES = {
    "depthwise_kernel": "kernel",
    "W": "kernel",
    "b": "bias",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
}
# Keras 3 numbers the variables of a layer; their order by the class in the group's name and by their number.
NUMBERED_VARIABLES = {
    "batch_normalization": {
        4: ("gamma", "beta", "moving_mean", "moving_variance"),
        3: ("beta", "moving_mean", "moving_variance"),  # scale=False
    },
    "depthwise_conv2d": {1: ("kernel",), 2: ("kernel", "bias")},
    "conv2d": {1: ("kernel",), 2: ("kernel", "bias")},
    "dense": {1: ("kernel",), 2: ("kernel", "bias")},
}


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is HDF5."""
    return head.startswith(MAGIC)


def read(path: Path | BinaryIO, layer_names: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
    """All variables of all layers, as `block1_conv1/kernel`, `conv1_bn/moving_variance`; a nested model's are flat.

    An optimiser's state is left out. Takes an open binary file too.

    Args:
      path: the file.
      layer_names: group (`/layers/conv2d_7`) -> name of the layer, for files of early Keras 3, which lack the names.
    """
    import h5py

    tensors: dict[str, np.ndarray] = {}
    with h5py.File(path, "r") as file:
        root = file.get("model_weights", file)
        if "layer_names" in root.attrs or "layer_names0" in root.attrs:
            variables = _legacy(root)
        elif "layers" in file or EARLY_LAYERS in file:
            variables = _keras3(file[EARLY_LAYERS if EARLY_LAYERS in file else "layers"], layer_names or {})
        else:
            raise TransferError("an HDF5 file, but not one that Keras writes (no layer_names, no layers)")
        for name, dataset in variables:
            if name in tensors:
                raise TransferError(f"it holds {name} twice")
            if not isinstance(dataset, h5py.Dataset):
                raise TransferError(f"{name} is a group, not numbers")
            if dataset.file.filename != file.filename or dataset.external or dataset.is_virtual:
                raise TransferError(f"refused: {name} lies in another file, to which this one only points")
            tensors[name] = _array(dataset)
    return tensors


def _array(dataset: Any) -> np.ndarray:
    # HDF5 has no bfloat16; Keras says so in an attribute
    if dataset.dtype.hasobject:
        raise TransferError(f"refused: {dataset.name} holds {dataset.dtype}, not numbers")
    dtype = ml_dtypes.bfloat16 if dataset.attrs.get("dtype") == "bfloat16" else dataset.dtype
    return np.array(dataset, dtype=dtype)


def _legacy(root: Any) -> Iterator[tuple[str, Any]]:
    for layer in _names(root, "layer_names"):
        group = _member(root, layer, "layer")
        for weight in _names(group, "weight_names"):
            yield _variable(layer, weight), _member(group, weight, f"variable of layer {layer}")


def _member(group: Any, name: str, what: str) -> Any:
    try:
        return group[name]
    except (KeyError, TypeError) as error:
        raise TransferError(f"it lists {name} as a {what}, but does not hold it") from error


def _names(group: Any, attribute: str) -> list[str]:
    """An attribute that is a list of names; Keras splits one too long for HDF5 into `NAME0`, `NAME1`, …"""
    attributes = group.attrs
    if attribute in attributes:
        parts = [attributes[attribute]]
    else:
        keys = sorted((k for k in attributes if re.fullmatch(rf"{attribute}\d+", k)), key=lambda k: (len(k), k))
        parts = [attributes[k] for k in keys]
    return [n.decode("utf-8") if isinstance(n, bytes) else str(n) for part in parts for n in part]


def _variable(layer: str, weight: str) -> str:
    """`layer/variable` from names such as `conv1/kernel:0`, `vgg16/conv1/kernel`, `conv1_W_1:0` (Keras 1)."""
    *scopes, leaf = weight.split(":")[0].split("/")
    owner = scopes[-1] if scopes else layer
    leaf = re.sub(r"_\d+$", "", leaf.removeprefix(f"{owner}_"))
    return f"{owner}/{OLD_VARIABLES.get(leaf, leaf)}"


def _keras3(layers: Any, layer_names: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    groups: list[Any] = []
    layers.visititems(lambda name, item: groups.append(item) if name.split("/")[-1] == "vars" else None)
    for group in groups:
        if not len(group):
            continue
        slot = group.parent.name.split("/")[-1]
        # the group's own name counts layers of a class (conv2d_7); the layer's name is an attribute
        layer = group.attrs.get("name") or layer_names.get(group.parent.name.replace(EARLY_LAYERS, "layers"))
        if layer is None:
            raise TransferError("written by an early Keras 3, which leaves out the names of layers; save it as .keras")
        kind = re.sub(r"_\d+$", "", slot)
        names = NUMBERED_VARIABLES.get(kind, {}).get(len(group), tuple(str(i) for i in range(len(group))))
        for i, variable in enumerate(names):
            yield f"{layer}/{variable}", group[str(i)]
