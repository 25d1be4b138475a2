"""A model's arrays from an ONNX graph, found along its edges: no name and no order in the file counts.

Exporters fold batch norm into the convolution before it; then ours becomes the identity and a shift, so that the
model computes the same. All that the graph does must be what the model does, at the image size of the file: functions,
what windows of convolutions and pools take, and what is made of the images before the first layer.
"""

import dataclasses
import functools
import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from transfer.errors import TransferError, UsageError
from transfer.models import registry
from transfer.models.graph.trace import leading_to, trace
from transfer.preprocess.recipe import Preprocessing
from transfer.weights.names import Shape, name_map
from transfer.weights.onnx.folded import filled, filled_norm
from transfer.weights.onnx.our_units import OurUnits
from transfer.weights.onnx.steps import Steps
from transfer.weights.onnx.structure import Unit, difference, pairs
from transfer.weights.onnx.units import Known, TheirUnits, View, dense_text
from transfer.weights.readers.onnx_file import OnnxTensors

# Exporters keep their names; their layouts are ONNX's.
PYTORCH = {"torchvision", "timm"}
# Sizes at which halving rounds, down and up to different ones, without padding and with it: where the file leaves the
# size open, it must be the model there too.
ODD_SIDES = (255, 257)


def by_name_or_edges(
    arch: str,
    tensors: Mapping[str, np.ndarray],
    candidates: Sequence[str],
    shapes: Mapping[str, Shape],
    *,
    by_names: bool,
    preprocessing: Preprocessing | None,
    file: str,
    name: str,
    **fields: Any,
) -> tuple[Mapping[str, np.ndarray], Sequence[str]]:
    """Tensors and the libraries whose names they may have, for `create.from_tensors`; `shapes` are the model's.

    Those of an ONNX file are what its graph gives, under our own names; `by_names`, and those of any other file, are
    returned as they are.

    Raises:
      TransferError: the graph is not the model's, though perhaps its names are: it may be another function with the
        same weights.
    """
    if by_names or not isinstance(tensors, OnnxTensors):
        return tensors, candidates
    try:
        return follow(tensors, arch, preprocessing, file=file, name=name, **fields), ("native",)
    except Differs as error:
        if not _has_names(arch, tensors, candidates, shapes):
            raise
        raise Differs(
            f"{error}; its names fit: by_names=True (convert: --by_names) takes the weights by them"
        ) from error


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


class Differs(TransferError):
    """A graph is not the model's."""


def follow(
    tensors: OnnxTensors, arch: str, preprocessing: Preprocessing | None, *, file: str, name: str, **fields: Any
) -> dict[str, np.ndarray]:
    """The arrays of the model that `arch` and `fields` build, by dotted path, with the classifier of the file.

    Args:
      tensors: of an ONNX file.
      preprocessing: of the images that the model is given; a graph that does the same itself is the model's.
      file, name: what messages call the file and the model.

    Raises:
      Differs: the graph is not the model's; the message says where they part.
    """
    problems: list[str] = []
    for number, output in enumerate(tensors.steps.outputs):
        found = Compared.at(tensors.steps, output, arch, fields, preprocessing)
        if found.paired is None:
            problems.append(found.problem)
            continue
        elsewhere = _at_odd_sides(tensors, number, arch, fields, preprocessing)
        if elsewhere:
            problems.append(elsewhere)
            continue
        for said in found.warnings:
            logging.warning("%s: %s %s", name, file, said)
        return {path: array for pair in found.paired for path, array in _filled(*pair).items()}
    raise Differs(f"{file} does not fit {name}: {[*problems, str(tensors.steps.problem)][0]}")


def _at_odd_sides(
    tensors: OnnxTensors, number: int, arch: str, fields: Mapping[str, Any], preprocessing: Preprocessing | None
) -> str:
    """Where they part at another size, if the file leaves it open and both take it; else empty."""
    at = tensors.at
    if at is None:
        return ""
    for side in ODD_SIDES:
        steps = at((side, side, tensors.steps.image_shape[-1]))
        if steps.problem is not None or not steps.is_consistent:
            continue
        try:
            found = Compared.at(steps, steps.outputs[number], arch, fields, preprocessing)
        except Differs:  # the model does not take this size
            continue
        if found.paired is None:
            return f"for images of {side}x{side} pixels, {found.problem}"
    return ""


@dataclasses.dataclass(frozen=True)
class Compared:
    """A graph beside a model.

    Attributes:
      paired: our units with theirs; None where the two differ.
      problem: where they part.
      warnings: what is to be said of a graph that is the model's, after the file's name.
    """

    paired: list[tuple[Unit, Unit]] | None
    problem: str = ""
    warnings: tuple[str, ...] = ()

    @classmethod
    def at(
        cls,
        steps: Steps,
        output: int,
        arch: str,
        fields: Mapping[str, Any],
        preprocessing: Preprocessing | None,
    ) -> "Compared":
        """One output of a graph beside the model that `arch` and `fields` build, with as many classes."""
        dense = [i for i in leading_to([output], lambda i: steps.steps[i].inputs) if steps.steps[i].op == "dense"]
        classes = steps.steps[max(dense)].sizes["c"] if dense else 0
        model = registry.build(arch, seed=None, **{**fields, "num_classes": classes})
        try:
            ours = OurUnits(trace(model, (1, *steps.image_shape), with_values=True))
        except UsageError as error:
            raise Differs(f"its images are {'x'.join(map(str, steps.image_shape))}: {error}") from error
        theirs = TheirUnits(steps, output, _known_views(ours, preprocessing))
        units = _dense_read_as_such(theirs.units, {each.about for each in ours.units if each.op == "dense"})
        paired = pairs(ours.units, units, ours.output, theirs.output)
        if paired is not None:
            return cls(list(paired), warnings=theirs.warnings)
        return cls(None, difference(ours.units, units, ours.output, theirs.output) + _hint(arch, ours, units, fields))


def _known_views(ours: OurUnits, preprocessing: Preprocessing | None) -> list[Known]:
    """The model's own, and after the preprocessing of its images, given as 0..255 or as 0..1."""
    plain = View.of(ours.graph.nodes[0].shape[-1])
    own = [Known(plain, None), *(Known(view, i) for i, view in enumerate(ours.views))]
    if preprocessing is None or len(preprocessing.mean) != len(plain.channels):
        return own
    std, mean = np.array(preprocessing.std), np.array(preprocessing.mean)
    channels = plain.channels[::-1] if preprocessing.channels == "bgr" else plain.channels
    before = [View(channels, preprocessing.scale * most / std, -mean / std) for most in (1, 255)]
    given = [
        dataclasses.replace(each, view=first.then(each.view), is_preprocessed=False) for each in own for first in before
    ]
    return [*own, *given]


def _hint(arch: str, ours: OurUnits, units: Sequence[Unit], fields: Mapping[str, Any]) -> str:
    """What else there is to say of a graph that is not the model's: which one it could be of."""
    one_normalises = bool(ours.views) != any(each.op == "images" for each in units)
    if one_normalises and "transform_input" in inspect.signature(registry.builder(arch)).parameters:
        return " (transform_input says whether the model normalises its images)"
    if fields.get("width", 1) != 1:
        return ""
    theirs = Counter(each.parts["kernel"].shape for each in units if each.op == "conv")
    alike = next((other for other in (arch, *registry.architectures()) if theirs == _convolutions(other)), arch)
    return f"; its convolutions are those of {alike}" if alike != arch else ""


@functools.cache
def _convolutions(arch: str) -> Counter[tuple[int, ...]]:
    arrays = registry.flat_state(registry.build(arch, seed=None, num_classes=0))
    return Counter(array.shape for array in arrays.values() if array.ndim == 4)


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
            whole = (tuple(range(height)),), (tuple(range(width)),)
            if about in dense and unit.about[2:] == (1, *whole) and (height * width > 1 or before.op == "dense"):
                parts = {**unit.parts, "kernel": unit.parts["kernel"].reshape(about), "channels_first": False}
                unit = dataclasses.replace(unit, op="dense", about=about, parts=parts, text=dense_text(*about))
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
