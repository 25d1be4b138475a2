"""Images of another number of channels than weights were trained on: the first kernel is summed or repeated.

As timm does it (`adapt_input_conv`): a sum takes a grey image for one of three equal channels.
"""

import dataclasses
import functools
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import numpy as np
from absl import logging

from transfer.models import registry
from transfer.preprocess.recipe import Preprocessing
from transfer.weights.names import NameMap, Shape, shapes_of

FIELD = "channels"
# So many channels no other layer has: what takes them is the first kernel.
MANY = 7919
COLOURS = 3
# Channels of the images that a recipe makes -> what it calls them.
MADE = {1: "grey", COLOURS: "rgb"}


@functools.cache
def first_kernel(arch: str) -> str:
    """The path of the kernel that takes the images; UsageError for an architecture without the field `channels`."""
    shapes = shapes_of(registry.build(arch, seed=None, **{FIELD: MANY}))
    return next(path for path, shape in shapes.items() if MANY in shape)


def of_model(arch: str, fields: Mapping[str, Any]) -> int:
    """The channels of the images that `arch` takes where it is built with `fields`."""
    return {FIELD: COLOURS, **registry.defaults(arch), **fields}[FIELD]


def fields(arch: str, others: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """The `others` for images of so many channels: as they are where those are the model's already."""
    return {**others, **({} if channels == of_model(arch, others) else {FIELD: channels})}


def of_file(arch: str, names: NameMap, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]) -> int | None:
    """The channels that the first kernel of a file takes where a model of these `shapes` takes others, else None."""
    for path, shape in shapes.items():
        source = names.sources[path]
        if len(shape) == 4 and source.name in tensors:
            theirs = source.convert(tensors[source.name], shape).shape
            if len(theirs) == 4 and theirs[2] != shape[2] and FIELD in registry.defaults(arch):
                return theirs[2] if path == first_kernel(arch) else None
    return None


def adapted(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A first kernel (height, width, inputs, outputs), summed for 1 channel, else repeated and scaled in proportion."""
    height, width, inputs, outputs = kernel.shape
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True, dtype=np.float32)
    repeated = np.tile(kernel.astype(np.float32), (1, 1, -(-channels // inputs), 1))
    return repeated[:, :, :channels] * np.float32(inputs / channels)


def log(arch: str, of_file: int, wanted: int | None, name: str, file: str) -> None:
    """Says that a file's first kernel was `adapted`, or that the model takes images of other channels as it does."""
    channels = of_file if wanted is None else wanted
    number = "1 channel" if channels == 1 else f"{channels} channels"
    if channels != of_file:
        how = "summed to" if channels == 1 else "repeated and scaled to"
        logging.info("%s: the first kernel of %s is %s %s", name, file, how, number)
    elif wanted is None and channels != of_model(arch, {}):
        logging.info("%s: the first kernel of %s takes images of %s, so the model does", name, file, number)


def recipe(preprocessing: Preprocessing | None, channels: int) -> Preprocessing | None:
    """The recipe for images of so many channels: other ones get the average of `mean` and of `std`, as in timm.

    None for images that no recipe makes.
    """
    if preprocessing is None or preprocessing.input_shape[-1] == channels:
        return preprocessing
    if channels not in MADE:
        return None
    mean, std = (fmean(preprocessing.mean),), (fmean(preprocessing.std),)
    return dataclasses.replace(preprocessing, channels=MADE[channels], mean=mean, std=std)
