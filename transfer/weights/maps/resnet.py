"""The names of ResNet's layers in torchvision, timm and Keras."""

import re

from transfer.weights.maps import of_each

CLASSIFIER = {"torchvision": ("fc.",), "timm": ("fc.",), "keras": ("predictions/",)}

_UNIT = re.compile(r"stage(\d+)\.unit(\d+)\.(\w+)")

TORCH_LAYERS = {"stem.conv": "conv1", "stem.bn": "bn1", "logits": "fc"}
TORCH_SHORTCUT = {"proj": "downsample.0", "proj_bn": "downsample.1"}

KERAS_LAYERS = {"stem.conv": "conv1_conv", "stem.bn": "conv1_bn", "post_bn": "post_bn", "logits": "predictions"}
# Keras counts the shortcut as convolution 0 of a unit
KERAS_PARTS = {"proj": "0_conv", "proj_bn": "0_bn", "preact_bn": "preact_bn"}


def torchvision(layer: str) -> str:
    """`stage2.unit3.conv2` is `layer2.2.conv2`; timm's plain ResNets agree."""
    if layer in TORCH_LAYERS:
        return TORCH_LAYERS[layer]
    stage, unit, part = _parts(layer)
    return f"layer{stage}.{unit - 1}.{TORCH_SHORTCUT.get(part, part)}"


def keras(layer: str) -> str:
    """`stage2.unit3.conv2` is `conv3_block3_2_conv`: the stem counts as the first stage."""
    if layer in KERAS_LAYERS:
        return KERAS_LAYERS[layer]
    stage, unit, part = _parts(layer)
    numbered = re.sub(r"([a-z]+)(\d)", r"\2_\1", part)  # conv2 -> 2_conv
    return f"conv{stage + 1}_block{unit}_{KERAS_PARTS.get(part, numbered)}"


def _parts(layer: str) -> tuple[int, int, str]:
    match = _UNIT.fullmatch(layer)
    if match is None:
        raise ValueError(f"{layer} is not a layer of a ResNet")
    return int(match[1]), int(match[2]), match[3]


NAMES = {"torchvision": of_each(torchvision), "timm": of_each(torchvision), "keras": of_each(keras)}
# Zeros around the image, a layer of their own in front of the first convolution.
KERAS_PADDING = 3
