"""The names of VGG's layers in torchvision, timm and Keras."""

import re
from collections.abc import Sequence

from transfer.models.vgg import CLASSIFIER_CELLS
from transfer.weights.maps import of_each

# fc1 takes the flattened 7x7 map, which PyTorch flattens channels first
FLATTENED = {"fc1": CLASSIFIER_CELLS**2}

CLASSIFIER = {
    "torchvision": ("classifier.",),
    "timm": ("pre_logits.", "head."),
    "keras": ("fc1/", "fc2/", "predictions/"),
    "native": ("fc1.", "fc2.", "logits."),
}

_CONVOLUTION = re.compile(r"block(\d+)\.conv(\d+)")


def _features(layers: Sequence[str]) -> dict[str, str]:
    """`block2.conv1` -> `features.5`: torchvision numbers convolution, batch norm, ReLU and pool through."""
    matches = (_CONVOLUTION.fullmatch(layer) for layer in layers)
    convolutions = sorted((int(match[1]), int(match[2])) for match in matches if match)
    has_batch_norm = any(".bn" in layer for layer in layers)
    names, position, previous = {}, 0, 1
    for block, number in convolutions:
        position += block - previous  # the pool between two blocks
        previous = block
        names[f"block{block}.conv{number}"] = f"features.{position}"
        if has_batch_norm:
            names[f"block{block}.bn{number}"] = f"features.{position + 1}"
        position += 2 + has_batch_norm
    return names


def torchvision(layers: Sequence[str]) -> dict[str, str]:
    """The classifier is `Linear, ReLU, Dropout` repeated, so its linear layers are numbers 0, 3, 6."""
    dense = [layer for layer in ("fc1", "fc2", "logits") if layer in layers]
    return _features(layers) | {layer: f"classifier.{3 * i}" for i, layer in enumerate(dense)}


def timm(layers: Sequence[str]) -> dict[str, str]:
    """The hidden layers are 7x7 and 1x1 convolutions under `pre_logits`."""
    dense = {"fc1": "pre_logits.fc1", "fc2": "pre_logits.fc2", "logits": "head.fc"}
    return _features(layers) | {layer: name for layer, name in dense.items() if layer in layers}


def keras(layer: str) -> str:
    """`block1.conv1` is `block1_conv1`."""
    return "predictions" if layer == "logits" else layer.replace(".", "_")


NAMES = {"torchvision": torchvision, "timm": timm, "keras": of_each(keras)}
