"""The names of Inception v3's layers in torchvision, timm and Keras."""

import re
from collections.abc import Mapping

import numpy as np

from transfer.errors import TransferError
from transfer.models.inception import MODULES, STEM, step_names
from transfer.weights.maps import of_each

CLASSIFIER = {"torchvision": ("fc.",), "timm": ("fc.",), "keras": ("predictions/",)}

# The auxiliary classifier of training, which our network does not have.
EXCUSED = {"torchvision": ("AuxLogits.",), "timm": ("AuxLogits.",)}

# The paper's table counts layers from 1 to 7, pools too.
TORCH_BLOCKS = dict(zip(MODULES, ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"), strict=True))
TORCH_STEM = {f"conv{i}": name for i, name in enumerate(("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"), 1)}

# Every convolution, in the order in which Keras makes them.
BRICKS = [f"stem.conv{i}" for i in range(1, len(STEM) + 1)] + [
    f"{module}.{layer}"
    for module, branches in MODULES.items()
    for branch, steps in branches.items()
    for layers in step_names(branch, steps)
    for layer in layers
]
KERAS_PARTS = {"conv": "conv2d", "bn": "batch_normalization"}
_NUMBERED = re.compile(r"(conv2d|batch_normalization)(?:_(\d{1,9}))?/(.+)")


def torchvision(layer: str) -> str:
    """`mixed0.branch5x5_1.conv` is `Mixed_5b.branch5x5_1.conv`; timm agrees."""
    if layer == "logits":
        return "fc"
    block, brick, part = layer.split(".")
    return f"Conv2d_{TORCH_STEM[brick]}.{part}" if block == "stem" else f"Mixed_{TORCH_BLOCKS[block]}.{brick}.{part}"


def keras(layer: str) -> str:
    """Keras numbers the convolutions as it makes them, from 0: `mixed0.branch1x1.conv` is `conv2d_5`."""
    brick, _, part = layer.rpartition(".")
    return "predictions" if layer == "logits" else f"{KERAS_PARTS[part]}_{BRICKS.index(brick)}"


def counted_from_zero(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Keras' tensors with the layers numbered from 0 whatever the process had made before (`conv2d`: number 0).

    Raises:
        TransferError: there are numbers missing between the first and the last.
    """
    matches = {name: _NUMBERED.fullmatch(name) for name in tensors}
    numbers = {kind: {int(m[2] or 0) for m in matches.values() if m and m[1] == kind} for kind in KERAS_PARTS.values()}
    for kind, taken in numbers.items():
        if taken and max(taken) - min(taken) + 1 != len(taken):
            raise TransferError(f"the numbers of its {kind} layers have gaps, so their order is not known")

    def name(original: str) -> str:
        match = matches[original]
        return f"{match[1]}_{int(match[2] or 0) - min(numbers[match[1]])}/{match[3]}" if match else original

    return {name(original): tensor for original, tensor in tensors.items()}


NAMES = {"torchvision": of_each(torchvision), "timm": of_each(torchvision), "keras": of_each(keras)}
RENAMES = {"keras": counted_from_zero}
