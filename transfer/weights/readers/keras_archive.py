"""Keras 3's `.keras`: a zip with the weights in `model.weights.h5` and the names of layers in `config.json`."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transfer.weights.readers import keras_h5
from transfer.weights.readers._archive import members, opened
from transfer.weights.readers._described import Described, front

FORMAT = "Keras .keras"
WEIGHTS = "model.weights.h5"
CONFIG = "config.json"


def recognises(path: Path, head: bytes) -> bool:
    """Whether it is a zip with Keras' weights in it."""
    return WEIGHTS in members(path, head)


def read(path: Path) -> Described:
    """All variables as `layer/variable`, checksums of the zip verified."""
    with opened(path) as archive:
        config = archive.read(CONFIG) if CONFIG in archive else b"{}"
        tensors = keras_h5.read(archive.read(WEIGHTS), dict(layer_names(config)))
    return Described(tensors, front=front(json.loads(config), {name.split("/")[0] for name in tensors}))


def layer_names(config: bytes) -> Iterator[tuple[str, str]]:
    """HDF5 group -> layer name, as the text of `config.json` has them."""
    return _layer_names(json.loads(config))


def _layer_names(model: Mapping[str, Any], parent: str = "") -> Iterator[tuple[str, str]]:
    """HDF5 group -> layer name: Keras numbers the layers of a class in the order of the model's config."""
    count: Counter[str] = Counter()
    for layer in model.get("config", {}).get("layers", ()):
        kind = _snake_case(layer["class_name"])
        group = f"{parent}/layers/{kind}" + (f"_{count[kind]}" if count[kind] else "")
        count[kind] += 1
        yield group, layer["config"]["name"]
        yield from _layer_names(layer, group)


def _snake_case(name: str) -> str:
    """`BatchNormalization` -> `batch_normalization`, `Conv2D` -> `conv2d`, as Keras does it."""
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()
