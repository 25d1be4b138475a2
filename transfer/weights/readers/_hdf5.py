"""The process that finds out what an HDF5 file of Keras holds, asked by `transfer.weights.readers.keras_file`."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import h5py

from transfer.errors import TransferError
from transfer.runtime.files.hdf5_process import Hdf5, attribute_of, check, child, dtype_of, serve, text_of
from transfer.runtime.files.untrusted import printable

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


class KerasFile(Hdf5):
    """The variables of layers; an optimiser's state is left out."""

    def holds(self) -> dict[str, Any]:
        """The JSON of a whole model, `network`, if any, and `variables`: [layer, group, variable, path, dtype, shape].

        `layer`, with the models that it lies in (`vgg16/block1_conv1`), is None where the file has only the name of its
        group.
        """
        variables = [
            (*names, dataset.name, dtype_of(dataset).name, dataset.shape)
            for *names, dataset in _variables(self.file, self.size)
        ]
        return {"variables": variables, "network": text_of(self.file, "model_config")}


def main() -> None:
    """Answers about a file of Keras."""
    serve(KerasFile)


def _variables(file: Any, size: int) -> Iterator[tuple[str | None, str, str, Any]]:
    """(layer, group, variable, dataset), each looked at."""
    root = child(file, "model_weights") or file
    layers = next((group for name in ("layers", EARLY_LAYERS) if (group := child(file, name)) is not None), None)
    if "layer_names" in root.attrs or "layer_names0" in root.attrs:
        variables = _legacy(root)
    elif layers is not None:
        variables = _keras3(layers)
    else:
        raise TransferError("an HDF5 file, but not one that Keras writes (no layer_names, no layers)")
    for layer, group, variable, dataset in variables:
        check(dataset, printable(f"{layer or group}/{variable}"), size)
        yield layer, group, variable, dataset


def _legacy(root: Any) -> Iterator[tuple[str | None, str, str, Any]]:
    for layer in _names(root, "layer_names"):
        group = child(root, layer, "layer")
        for weight in _names(group, "weight_names"):
            yield *_variable(layer, weight), child(group, weight, f"variable of layer {printable(layer)}")


def _names(group: Any, attribute: str) -> list[str]:
    """An attribute that is a list of names; Keras splits one too long for HDF5 into `NAME0`, `NAME1`, …"""
    keys = [attribute]
    if attribute not in group.attrs:
        keys = [key for key in group.attrs if re.fullmatch(rf"{attribute}\d+", key)]
    parts = [attribute_of(group, key) for key in sorted(keys, key=lambda key: (len(key), key))]
    names = [n.decode("utf-8") if isinstance(n, bytes) else str(n) for part in parts for n in part]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise TransferError(f"its {attribute} name {printable(twice[0])} twice")
    return names


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
                child(group, str(i), f"variable of {printable(parent)}"),
            )


def _path(layers: Any, group: Any, parent: str) -> str | None:
    """The name of the layer whose `vars` a group is, with those of the models that it lies in; None if it has none."""
    outer, names, name = layers, [], text_of(group, "name")
    for part in parent.removeprefix(str(layers.name)).strip("/").split("/layers/")[:-1]:
        outer = child(outer, part)
        names.append(text_of(own, "name") if (own := child(outer, "vars")) is not None else None)
        outer = child(outer, "layers")
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
