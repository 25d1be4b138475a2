"""Tensors together with what their file says of the network beside them: names, settings, layers in front."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice, takewhile
from typing import Any, NamedTuple

import numpy as np

from transfer.runtime.files.unpickler import StandIn

# Where checkpoints, `config.json` and headers name the network, and where they say how it differs from the usual one.
NAMING = ("arch", "architecture", "architectures", "model", "model_name", "model_type", "backbone")
SETTING = (
    *("act_layer", "hidden_act", "aa_layer", "output_stride", "global_pool", "gp", "bn_eps"),
    "downsample_in_first_stage",
)
# The dicts in which they may lie.
WITHIN = (
    *("args", "config", "cfg", "hparams", "hyper_parameters", "kwargs"),
    *("model_args", "model_kwargs", "opt", "pretrained_cfg"),
)
DEEPEST, LONGEST = 3, 200

# Keras' layers that have weights of an image's network; in front of the first stands what is done to the images.
WEIGHTED = ("Conv2D", "Convolution2D", "DepthwiseConv2D", "SeparableConv2D", "Dense", "BatchNormalization")
# What is kept of the configuration of a layer in front.
KEPT = ("scale", "offset", "mean", "variance", "invert", "padding", "activation")
MOST_IN_FRONT = 50
# The name of Keras' other format, and the kinds of numbers that it may hold.
HDF5, NUMBERS, BFLOAT16 = "Keras .h5", "biuf", "bfloat16"


class Layer(NamedTuple):
    """A layer of a Keras model: its name, its class, and of its configuration what `KEPT` lists."""

    name: str
    kind: str
    config: Mapping[str, Any]


class Described(dict[str, np.ndarray]):
    """Tensors by name, with what their file says beside them.

    Attributes:
      says: key in the file, such as `arch` or `args.model` -> text or a number.
      front: of a whole Keras model, the layers before the first one with weights.
      assumed: sentences on what the reader chose where the file leaves it open (`transfer.weights.assumed`).
    """

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        says: Mapping[str, Any] | None = None,
        front: Sequence[Layer] = (),
        assumed: Sequence[str] = (),
    ) -> None:
        super().__init__(tensors)
        self.says, self.front, self.assumed = dict(says or {}), tuple(front), list(assumed)


def claims_in(content: object, depth: int = 0) -> dict[str, Any]:
    """The claims of a dict, or of a stand-in's state, about the network: dotted key in the file -> text or number."""
    claims: dict[str, Any] = {}
    content = content.says if isinstance(content, StandIn) else content
    for key in (*NAMING, *SETTING, *WITHIN) if isinstance(content, Mapping) else ():
        value = content.get(key)  # type: ignore[attr-defined]
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if key in WITHIN and isinstance(value, (Mapping, StandIn)) and depth < DEEPEST:
            claims |= {f"{key}.{inner}": claim for inner, claim in claims_in(value, depth + 1).items()}
        elif key not in WITHIN and isinstance(value, (str, int, float)):
            claims[key] = value[:LONGEST] if isinstance(value, str) else value
    return claims


def front(model: object, owners: Collection[str]) -> list[Layer]:
    """The layers before the first with weights, of a model as Keras' JSON has it; `owners` names layers with some."""

    def has_none(layer: Layer) -> bool:
        return layer.kind not in WEIGHTED and (layer.name not in owners or layer.kind == "Normalization")

    return list(islice(takewhile(has_none, _flat(model)), MOST_IN_FRONT))


def _flat(model: object) -> Iterator[Layer]:
    """The layers of a model in Keras' order, from the images on; an inner model's stand in its place."""
    config = model.get("config") if isinstance(model, Mapping) else None
    layers = config.get("layers") if isinstance(config, Mapping) else config  # a list in Keras 1
    for layer in layers if isinstance(layers, list) else ():
        inner = layer.get("config") if isinstance(layer, Mapping) else None
        if isinstance(inner, list) or (isinstance(inner, Mapping) and isinstance(inner.get("layers"), list)):
            yield from _flat(layer)
        elif isinstance(inner, Mapping):
            kept = {key: inner[key] for key in KEPT if key in inner}
            yield Layer(str(inner.get("name")), str(layer.get("class_name")), kept)
