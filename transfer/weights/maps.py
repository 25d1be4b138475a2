"""What other libraries call the layers of our backbones: a row a family and library, at the end of this file.

A family may carry the same in its model file instead: `NAMES` (library -> function), and likewise `CLASSIFIER` (also
of "native", our own files), `EXCUSED`, `RENAMES` and `SOURCES` for the other attributes of `Names`; `FLATTENED` and
`KERAS_PADDING` as in `Family`.
"""

import functools
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from transfer.errors import TransferError
from transfer.models import alexnet, inception, lenet, registry, vgg


def of_each(name: Callable[[str], str], last: str) -> Callable[[Sequence[str]], Mapping[str, str]]:
    """The names of layers by a function of each one's path alone, and the name of the `last` one, our `logits`."""
    return lambda layers: {layer: last if layer == "logits" else name(layer) for layer in layers}


class Names(NamedTuple):
    """What a library calls the layers of a family.

    Attributes:
      of: their names of our layer paths.
      classifier: prefixes of the tensors that a backbone without classifier does not need.
      excused: prefixes of tensors that have no place here, such as auxiliary classifiers of training.
      children: of the library's module in their order, the classifier last; an `nn.Sequential` of them numbers them.
      rename: a file's tensors under the names of `of`, where the library's own differ from file to file.
      behind: of a file's tensors that are none of the network's, by name, those that can only stand behind it.
      sources: from the shapes of our arrays the `names.Source` of those that are no `LAYER.VARIABLE` of one tensor
        each, such as a token or a part of a fused qkv.
    """

    of: Callable[[Sequence[str]], Mapping[str, str]] = of_each(str, "logits")
    classifier: tuple[str, ...] = ()
    excused: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    rename: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] = lambda tensors: tensors
    behind: Callable[[Mapping[str, np.ndarray]], Collection[str]] = lambda tensors: ()
    sources: Callable[[Mapping[str, tuple[int, ...]]], Mapping[str, Any]] = lambda shapes: {}


class Family(NamedTuple):
    """The names of a family's layers in other libraries.

    Attributes:
      classifier: as in `Names`, of our own files.
      flattened: our layer that takes a flattened feature map -> its cells, which PyTorch flattens channels first.
      keras_padding: zeros around the image, a layer of their own in front of Keras' first convolution.
      name: of the family's file in `transfer/models`.
    """

    libraries: Mapping[str, Names]
    classifier: tuple[str, ...] = ("logits.",)
    flattened: Mapping[str, int] = {}
    keras_padding: int | None = None
    name: str = ""


@functools.cache
def family(arch: str) -> Family:
    """The family of an architecture: a row of `FAMILIES`, else what its model file says."""
    builder = registry.builder(arch)
    module = sys.modules[getattr(builder, "func", builder).__module__]
    name = module.__name__.rpartition(".")[2]
    if name in FAMILIES:
        return FAMILIES[name]._replace(name=name)
    attributes = {"classifier": "CLASSIFIER", "excused": "EXCUSED", "rename": "RENAMES", "sources": "SOURCES"}
    said = {attribute: getattr(module, capitals, {}) for attribute, capitals in attributes.items()}
    libraries = {
        library: Names(of, **{key: values[library] for key, values in said.items() if library in values})
        for library, of in getattr(module, "NAMES", {}).items()
    }
    own, padding = said["classifier"].get("native", ("logits.",)), getattr(module, "KERAS_PADDING", None)
    return Family(libraries, own, getattr(module, "FLATTENED", {}), padding, name)


# What self-supervised training and others put beside a backbone, under its own prefix: no part of it.
SIDE_HEADS = {"projection_head", "prediction_head", "prototypes", "projector", "predictor", "online_projector"}
SIDE_HEADS |= {"online_predictor", "head", "heads", "queue", "queue_ptr", "queue2", "queue2_ptr", "n_averaged"}
SIDE_HEADS |= {"classifier", "classifiers", "linear", "last_linear", "loss", "criterion"}

# Positions in `features`, where ReLUs and pools count too.
ALEXNET = {f"conv{i}": f"features.{position}" for i, position in enumerate((0, 3, 6, 8, 10), 1)}


def alexnet_torch(layers: Sequence[str]) -> Mapping[str, str]:
    """The classifier is `Dropout, Linear, ReLU` twice and a linear layer, so its linear layers are 1, 4, 6."""
    hidden = [layer for layer in ("fc1", "fc2") if layer in layers]
    dense = {layer: f"classifier.{1 + 3 * i}" for i, layer in enumerate(hidden)}
    return ALEXNET | dense | {"logits": f"classifier.{3 * len(hidden)}"}


# What an `nn.Sequential` numbers: the children of torchvision's modules, those without tensors too.
CONVOLUTIONAL = ("features", "avgpool", "classifier")
RESNET_CHILDREN = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc")
GOOGLENET_CHILDREN = (
    *("conv1", "maxpool1", "conv2", "conv3", "maxpool2", "inception3a", "inception3b", "maxpool3"),
    *("inception4a", "inception4b", "inception4c", "inception4d", "inception4e", "maxpool4"),
    *("inception5a", "inception5b", "aux1", "aux2", "avgpool", "dropout", "fc"),
)
INCEPTION_CHILDREN = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "AuxLogits"),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c", "avgpool", "dropout", "fc"),
)

# torchvision numbers the parts of a branch, and a pool counts as one
GOOGLENET = {"branch2_1": "branch2.0", "branch2_2": "branch2.1", "branch3_1": "branch3.0", "branch3_2": "branch3.1"}
GOOGLENET |= {"branch1": "branch1", "branch4": "branch4.1"}


def googlenet_torch(layer: str) -> str:
    """`inception3a.branch2_1.conv` is `inception3a.branch2.0.conv`; the stem's layers stand alone."""
    block, brick, part = layer.split(".")
    return f"{brick}.{part}" if block == "stem" else f"{block}.{GOOGLENET[brick]}.{part}"


def keras_behind(tensors: Mapping[str, np.ndarray]) -> set[str]:
    """The tensors of layers that cannot stand in front of a network: those make an image's channels."""
    layers: dict[str, list[str]] = {}
    for name in tensors:
        layers.setdefault(name.rpartition("/")[0], []).append(name)
    behind = set()
    for names in layers.values():
        kernels = [tensors[name] for name in names if tensors[name].ndim > 1]
        # a dense layer of images takes their channels alone
        in_front = [k.shape[0] <= IMAGE_CHANNELS if k.ndim == 2 else k.shape[-1] <= IMAGE_CHANNELS for k in kernels]
        is_small = all(tensors[name].size <= IMAGE_CHANNELS for name in names)
        behind |= set() if any(in_front) or is_small else set(names)
    return behind


# The paper's table counts layers from 1 to 7, pools too.
MIXED = dict(zip(inception.MODULES, ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"), strict=True))
INCEPTION_STEM = {f"conv{i}": name for i, name in enumerate(("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"), 1)}
# Every convolution, in the order in which Keras makes them.
BRICKS = [f"stem.conv{i}" for i in range(1, len(inception.STEM) + 1)] + [
    f"{module}.{layer}"
    for module, branches in inception.MODULES.items()
    for branch, steps in branches.items()
    for layers in inception.step_names(branch, steps)
    for layer in layers
]
IMAGE_CHANNELS = 4
KERAS_PARTS = {"conv": "conv2d", "bn": "batch_normalization"}
_NUMBERED = re.compile(r"(conv2d|batch_normalization)(?:_(\d{1,9}))?/(.+)")


def inception_torch(layer: str) -> str:
    """`mixed0.branch5x5_1.conv` is `Mixed_5b.branch5x5_1.conv`; timm agrees."""
    block, brick, part = layer.split(".")
    return f"Conv2d_{INCEPTION_STEM[brick]}.{part}" if block == "stem" else f"Mixed_{MIXED[block]}.{brick}.{part}"


def inception_keras(layer: str) -> str:
    """Keras numbers the convolutions as it makes them, from 0: `mixed0.branch1x1.conv` is `conv2d_5`."""
    brick, _, part = layer.rpartition(".")
    return f"{KERAS_PARTS[part]}_{BRICKS.index(brick)}"


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


_UNIT = re.compile(r"stage(\d+)\.unit(\d+)\.(\w+)")
RESNET_TORCH = {"stem.conv": "conv1", "stem.bn": "bn1"}
RESNET_KERAS = {"stem.conv": "conv1_conv", "stem.bn": "conv1_bn", "post_bn": "post_bn"}
# Parts of a unit; Keras counts the shortcut as convolution 0.
TORCH_SHORTCUT = {"proj": "downsample.0", "proj_bn": "downsample.1"}
TRANSFORMERS_PARTS = {"conv": "convolution", "bn": "normalization"}
KERAS_UNIT = {"proj": "0_conv", "proj_bn": "0_bn", "preact_bn": "preact_bn"}


def resnet_torch(layer: str) -> str:
    """`stage2.unit3.conv2` is `layer2.2.conv2`; timm's plain ResNets agree."""
    if layer in RESNET_TORCH:
        return RESNET_TORCH[layer]
    stage, unit, part = _UNIT.fullmatch(layer).groups()  # type: ignore[union-attr]
    return f"layer{stage}.{int(unit) - 1}.{TORCH_SHORTCUT.get(part, part)}"


def resnet_transformers(layer: str) -> str:
    """`stage2.unit3.conv2` is `resnet.encoder.stages.1.layers.2.layer.1.convolution`."""
    if layer.startswith("stem."):
        return f"resnet.embedder.embedder.{TRANSFORMERS_PARTS[layer.removeprefix('stem.')]}"
    stage, unit, part = _UNIT.fullmatch(layer).groups()  # type: ignore[union-attr]
    number = f"layer.{int(part[-1]) - 1}" if part[-1].isdigit() else "shortcut"
    kind = TRANSFORMERS_PARTS["bn" if "bn" in part else "conv"]
    return f"resnet.encoder.stages.{int(stage) - 1}.layers.{int(unit) - 1}.{number}.{kind}"


def resnet_keras(layer: str) -> str:
    """`stage2.unit3.conv2` is `conv3_block3_2_conv`: the stem counts as the first stage."""
    if layer in RESNET_KERAS:
        return RESNET_KERAS[layer]
    stage, unit, part = _UNIT.fullmatch(layer).groups()  # type: ignore[union-attr]
    numbered = re.sub(r"([a-z]+)(\d)", r"\2_\1", part)  # conv2 -> 2_conv
    return f"conv{int(stage) + 1}_block{unit}_{KERAS_UNIT.get(part, numbered)}"


_CONVOLUTION = re.compile(r"block(\d+)\.conv(\d+)")
VGG_TIMM = {"fc1": "pre_logits.fc1", "fc2": "pre_logits.fc2", "logits": "head.fc"}


def _vgg_features(layers: Sequence[str]) -> dict[str, str]:
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


def vgg_torch(layers: Sequence[str]) -> Mapping[str, str]:
    """The classifier is `Linear, ReLU, Dropout` repeated, so its linear layers are numbers 0, 3, 6."""
    dense = [layer for layer in ("fc1", "fc2", "logits") if layer in layers]
    return _vgg_features(layers) | {layer: f"classifier.{3 * i}" for i, layer in enumerate(dense)}


def vgg_timm(layers: Sequence[str]) -> Mapping[str, str]:
    """The hidden layers are 7x7 and 1x1 convolutions under `pre_logits`."""
    return _vgg_features(layers) | {layer: name for layer, name in VGG_TIMM.items() if layer in layers}


# Prefixes of classifiers with hidden layers, in our own files and in Keras'.
HIDDEN, KERAS_HIDDEN = ("fc1.", "fc2.", "logits."), ("fc1/", "fc2/", "predictions/")
_INCEPTION = Names(of_each(inception_torch, "fc"), ("fc.",), ("AuxLogits.",), INCEPTION_CHILDREN)
_RESNET = Names(of_each(resnet_torch, "fc"), ("fc.",), children=RESNET_CHILDREN)
_KERAS_RESNET = Names(of_each(resnet_keras, "predictions"), ("predictions/",), behind=keras_behind)

FAMILIES = {
    "alexnet": Family(
        {"torchvision": Names(alexnet_torch, ("classifier.",), children=CONVOLUTIONAL)},
        HIDDEN,
        {"fc1": alexnet.CLASSIFIER_CELLS**2},
    ),
    "googlenet": Family(
        {"torchvision": Names(of_each(googlenet_torch, "fc"), ("fc.",), ("aux1.", "aux2."), GOOGLENET_CHILDREN)}
    ),
    "inception": Family(
        {
            "torchvision": _INCEPTION,
            "timm": _INCEPTION,
            "keras": Names(
                of_each(inception_keras, "predictions"),
                ("predictions/",),
                rename=counted_from_zero,
                behind=keras_behind,
            ),
        }
    ),
    # as PyTorch's own tutorial and Keras' applications call the last layer; no library ships one
    "lenet": Family(
        {
            "torchvision": Names(of_each(str, "fc3"), ("fc1.", "fc2.", "fc3.")),
            "keras": Names(of_each(str, "predictions"), KERAS_HIDDEN),
        },
        HIDDEN,
        {"fc1": lenet.CLASSIFIER_CELLS**2},
    ),
    "resnet": Family(
        {
            "torchvision": _RESNET,
            "timm": _RESNET,
            "transformers": Names(of_each(resnet_transformers, "classifier.1"), ("classifier.",)),
            "keras": _KERAS_RESNET,
        },
        keras_padding=3,
    ),
    "resnet_v2": Family({"keras": _KERAS_RESNET}, keras_padding=3),
    "vgg": Family(
        {
            "torchvision": Names(vgg_torch, ("classifier.",), children=CONVOLUTIONAL),
            "timm": Names(vgg_timm, ("pre_logits.", "head.")),
            "keras": Names(
                of_each(lambda layer: layer.replace(".", "_"), "predictions"), KERAS_HIDDEN, behind=keras_behind
            ),
        },
        HIDDEN,
        {"fc1": vgg.CLASSIFIER_CELLS**2},
    ),
}
