"""A model's arrays from an ONNX graph, found along its edges: no name and no order in the file counts.

Exporters fold batch norm into the convolution before it; then ours becomes the identity and a shift, so that the
model computes the same. Functions and pools must agree too, strides and padding of convolutions as well; where and
over how much the graph averages does not count.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from flax import nnx

from transfer.errors import TransferError, UsageError
from transfer.models import registry
from transfer.models.graph import Graph, trace
from transfer.weights.folded import filled, filled_norm
from transfer.weights.names import Shape, name_map
from transfer.weights.readers.onnx_file import OnnxTensors
from transfer.weights.structure import Unit, difference, pairs
from transfer.weights.units import PLAIN, OurUnits, TheirUnits

# Exporters keep their names; their layouts are ONNX's.
PYTORCH = {"torchvision", "timm"}
# Tried where the file leaves the size open, or the model does not take the file's.
SIDES, CHANNELS = (224, 299, 32, 28), (3, 1)


def by_name_or_edges(
    arch: str,
    tensors: Mapping[str, np.ndarray],
    candidates: Sequence[str],
    shapes: Mapping[str, Shape],
    *,
    file: str,
    name: str,
    **fields: Any,
) -> tuple[Mapping[str, np.ndarray], Sequence[str]]:
    """Tensors and the libraries whose names they may have, for `create.from_tensors`; `shapes` are the model's.

    Those of an ONNX file under names that a name map knows, and of any other file, are returned as they are; else
    those that its graph gives, under our own names. Names that fit a graph which does not are worth a warning: it may
    be another function with the same weights.
    """
    if not isinstance(tensors, OnnxTensors):
        return tensors, candidates
    named = _has_names(arch, tensors, candidates, shapes)
    try:
        followed = follow(tensors, arch, file=file, name=name, **fields)
    except TransferError as error:
        if not named:
            raise
        logging.warning("%s (loaded by its names, which fit)", error)
    return (tensors, candidates) if named else (followed, ("native",))


def _has_names(arch: str, tensors: OnnxTensors, candidates: Sequence[str], shapes: Mapping[str, Shape]) -> bool:
    """Whether the file has the model's names in PyTorch and no others, with the whole classifier or none of it."""
    for library in PYTORCH & set(candidates):
        names = name_map(arch, library, shapes)
        sources = {source.name for source in names.sources.values()}
        unknown = [each for each in tensors if each not in sources and not names.in_classifier(each)]
        missing = sources - tensors.keys()
        headless = not any(map(names.in_classifier, tensors))
        if not unknown and (not missing or (headless and all(map(names.in_classifier, missing)))):
            return True
    return False


def follow(tensors: OnnxTensors, arch: str, *, file: str, name: str, **fields: Any) -> dict[str, np.ndarray]:
    """The arrays of the model that `arch` and `fields` build, by dotted path, with the classifier of the file.

    Args:
      tensors: of an ONNX file.
      file, name: what messages call the file and the model.

    Raises:
      TransferError: the graph is not the model's; the message says where they part.
    """
    problem = ""
    for output in tensors.steps.outputs:
        theirs = TheirUnits(tensors.steps, output)
        last = theirs.units[theirs.output]
        classes = int(str(last.about[1])) if last.op == "dense" else 0
        model = registry.build(arch, seed=None, **{**fields, "num_classes": classes})
        ours = OurUnits(_trace(model, tensors.steps.image_shape))
        units = _dense_read_as_such(theirs.units, {each.about for each in ours.units if each.op == "dense"})
        paired = pairs(ours.units, units, ours.output, theirs.output)
        if paired is None:
            problem = problem or difference(ours.units, units, ours.output, theirs.output) + _hint(
                arch, units, classes, fields
            )
            continue
        if ours.normalises != theirs.normalises:
            logging.warning("%s: %s", name, _other_input(file, ours.normalises))
        arrays: dict[str, np.ndarray] = {}
        for our, their in paired:
            arrays |= _filled(our, their)
        return arrays
    raise TransferError(f"{file} does not fit {name}: {problem}")


def _hint(arch: str, units: Sequence[Unit], classes: int, fields: Mapping[str, Any]) -> str:
    """What else there is to say of a graph that is not the model's: which one it could be of."""
    if not classes and any(each.op == "dense" for each in units):
        return " (its last step is no dense layer, so that it counts as a graph without classifier)"
    if fields.get("width", 1) != 1:
        return ""
    theirs = Counter(each.parts["kernel"].shape for each in units if each.op == "conv")
    alike = next((other for other in (arch, *registry.architectures()) if theirs == _convolutions(other)), arch)
    return f"; its convolutions are those of {alike}" if alike != arch else ""


@functools.cache
def _convolutions(arch: str) -> Counter[tuple[int, ...]]:
    arrays = registry.flat_state(registry.build(arch, seed=None, num_classes=0))
    return Counter(array.shape for array in arrays.values() if array.ndim == 4)


def _other_input(file: str, ours: bool) -> str:
    one, other = ("the model", file) if ours else (file, "the model")
    return (
        f"{one} normalises its images before the first layer, {other} does not: their outputs differ (transform_input)"
    )


def _trace(model: nnx.Module, image_shape: tuple[int, int, int] | None) -> Graph:
    """The model's graph, at the file's image size if the model takes it."""
    problem = UsageError("no size")
    given = [image_shape] if image_shape else []
    for shape in [*given, *((side, side, channels) for channels in CHANNELS for side in SIDES)]:
        try:
            return trace(model, (1, *shape))
        except UsageError as error:
            problem = error
    raise problem


def _dense_read_as_such(units: Sequence[Unit], dense: set[tuple[Any, ...]]) -> list[Unit]:
    """timm's VGG has a 7x7 convolution and 1x1 after it where others flatten: such are dense layers."""
    found: list[Unit] = []
    for unit in units:
        if unit.op == "conv":
            height, width, channels, features = unit.parts["kernel"].shape
            about = (height * width * channels, features)
            before = found[unit.inputs[0]]
            while before.op in ("relu", "tanh") and before.inputs:
                before = found[before.inputs[0]]
            if about in dense and unit.about[3:] == PLAIN and (height * width > 1 or before.op == "dense"):
                parts = {**unit.parts, "kernel": unit.parts["kernel"].reshape(about), "channels_first": False}
                unit = dataclasses.replace(unit, op="dense", about=about, parts=parts)
        found.append(unit)
    return found


def _filled(our: Unit, their: Unit) -> dict[str, np.ndarray]:
    """Our arrays of one pair of units."""
    parts = their.parts
    if our.op == "batch_norm":
        return filled_norm(our.parts["ours"], parts["norm"], their.name)
    if our.op not in ("conv", "dense"):
        return {}
    kernel, cells = parts["kernel"], our.parts.get("cells", 1)
    if parts.get("channels_first") and cells > 1:
        kernel = kernel.reshape(-1, cells, kernel.shape[-1]).transpose(1, 0, 2).reshape(kernel.shape)
    return filled(our.parts["ours"], kernel, parts.get("bias"), parts.get("norm"), their.name)
