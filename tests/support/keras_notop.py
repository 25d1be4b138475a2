"""A weight file of Keras without a classifier, for tests."""

from pathlib import Path

import h5py
import numpy as np

from transfer.models import registry
from transfer.weights.names import name_map


def keras_notop(path: Path, arch: str, fields: dict, dtype: type = np.float32) -> dict[str, np.ndarray]:
    """Writes a `notop` file as Keras 2 did, with random arrays; returns them by our paths."""
    model = registry.build(arch, seed=None, num_classes=0, **fields)
    random = np.random.default_rng(0)
    shapes = {p: a.shape for p, a in registry.flat_state(model).items()}
    arrays = {p: random.uniform(0.5, 1, shape).astype(dtype) for p, shape in shapes.items()}
    sources = name_map(arch, "keras", shapes).sources
    layers: dict[str, dict[str, np.ndarray]] = {}
    for p, array in arrays.items():
        layer, variable = sources[p].name.split("/")
        layers.setdefault(layer, {})[f"{layer}/{variable}:0"] = array
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in ("input_1", *layers)]
        file.create_group("input_1").attrs["weight_names"] = []
        for layer, variables in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in variables]
            for name, array in variables.items():
                group[name] = array
    return arrays
