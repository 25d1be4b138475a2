"""A model's arrays from an ONNX graph, found along its edges: no name and no order in the file counts.

Exporters fold batch norm into the convolution before it; then ours becomes the identity and a shift, so that the
model computes the same. All that the graph does must be what the model does, at the image size of the file: functions,
what windows of convolutions and pools take, and what is made of the images before the first layer.
"""

import dataclasses
import functools
import inspect
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from transfer.errors import UsageError
from transfer.models import registry
from transfer.models.graph.trace import leading_to
from transfer.preprocess.recipe import Preprocessing
from transfer.runtime.files.untrusted import prefix_errors
from transfer.weights.names import PYTORCH, NameMap, Shape, name_map
from transfer.weights.onnx.images import View
from transfer.weights.onnx.our_units import Ours, OurUnits
from transfer.weights.onnx.reading import GraphUnits, ImageShape
from transfer.weights.onnx.units import Differs, Norm, Unit, Units, dense, paired
from transfer.weights.readers.onnx_file import OnnxTensors

# Sizes at which halving rounds, down and up to different ones, without padding and with it: where the file leaves the
# size open, it must be the model there too.
ODD_SIDES = (255, 257)
PREPROCESSED = "the model takes images that are preprocessed"


class Model(NamedTuple):
    """The model that a graph is compared with; one that does the `preprocessing` of its images too is the model's."""

    arch: str
    fields: Mapping[str, Any]
    preprocessing: Preprocessing | None


def follow(
    tensors: OnnxTensors, model: Model, libraries: Sequence[str], shapes: Mapping[str, Shape], file: str, name: str
) -> dict[str, np.ndarray]:
    """The arrays of a model by dotted path, with the classifier of the file.

    `libraries`, whose names the file may have, and the `shapes` of the model's arrays are for a message.

    Raises:
      Differs: no output of the graph is the model's; the message says where they part, and whether the names fit all
        the same: it may be another function with the same weights.
    """
    graph, problems = tensors.graph, []
    for number, output in enumerate(graph.outputs):
        try:
            pairs, images = _compared(graph, output, model)
            for odd in (tensors.at((side, side, graph.image_shape[-1])) for side in ODD_SIDES if tensors.at):
                # an odd size need not be one that the graph and the model take
                if odd.problem is None and odd.is_consistent:
                    with suppress(UsageError), prefix_errors("for images of {}x{} pixels".format(*odd.image_shape)):
                        _compared(odd, odd.outputs[number], model)
            arrays = arrays_of(pairs)
        except UsageError as error:
            problems.append(f"its images are {'x'.join(map(str, graph.image_shape))}: {error}")
        except Differs as error:
            problems.append(str(error))
        else:
            if images.warning:
                logging.warning("%s: %s %s", name, file, images.warning)
            tensors.preprocessing, tensors.assumed = images.preprocessing, list(images.assumed)
            tensors.functions = graph.functions(number)
            return arrays
    has_names = any(_has_names(name_map(model.arch, each, shapes), tensors) for each in PYTORCH if each in libraries)
    advice = "; its names fit: by_names=True (convert: --by_names) takes the weights by them" if has_names else ""
    raise Differs(f"{file} does not fit {name}: {[*problems, str(graph.problem)][0]}{advice}")


def _has_names(names: NameMap, tensors: OnnxTensors) -> bool:
    """Whether the file has the model's names and no others, with the whole classifier or none of it."""
    sources = {source.name for source in names.sources.values()}
    body = {source for source in sources if not names.in_classifier(source)}
    body_of_file = {tensor for tensor in tensors if not names.in_classifier(tensor)}
    return body == body_of_file and (sources <= tensors.keys() or len(body_of_file) == len(tensors))


def _compared(graph: GraphUnits, output: int, model: Model) -> tuple[list[tuple[Unit, Unit]], "Images"]:
    """Our units with those that lead to an output of a graph, and what the graph makes of its images.

    Raises Differs where the graph is not the model's, UsageError where the model does not take images of this size.
    """
    needed = [graph.units[i] for i in sorted(leading_to([output], lambda i: graph.units[i].inputs))]
    layers = [unit for unit in needed if unit.op == "dense" or (unit is needed[-1] and takes_a_whole_map(unit))]
    classes = layers[-1].parts["kernel"].shape[-1] if layers else 0
    ours = OurUnits.of(model.arch, model.fields, classes, graph.image_shape)
    try:
        return matched(ours, graph, output, model.preprocessing)
    except Differs as error:
        raise Differs(f"{error}{_hint(model, needed, isinstance(error, OtherImages))}") from error


class OtherImages(Differs):
    """What a graph makes of its images before the first layer is neither the model's nor a preprocessing."""


class Images(NamedTuple):
    """What a graph makes of its images before the first layer, beyond what the model does itself.

    Attributes:
      view: the same in numbers, in the order of channels that the model takes.
      preprocessing: the same as a recipe, where nothing is known of how the model's images are made.
      assumed: sentences on what the graph leaves open.
      warning: what else is to be said of it.
    """

    view: View
    preprocessing: Preprocessing | None = None
    assumed: tuple[str, ...] = ()
    warning: str = ""


def matched(
    ours: OurUnits, graph: GraphUnits, end: int, known: Preprocessing | None = None, *, of_pixels: bool = False
) -> tuple[list[tuple[Unit, Unit]], Images]:
    """Our units with those that lead to the position `end` of a graph, and what the graph makes of its images.

    `known` is how the model's images are made. `of_pixels`: the graph takes numbers of 0..255, in an order that is a
    part of its preprocessing; otherwise the first kernel takes up another order.

    Raises Differs, saying where the two part.
    """
    takers, ((source, (layer, *_)),) = _takers(graph, end), _takers(ours, ours.output).items()
    own, units = ours.units[source], graph.units
    if len({units[i].inputs[0] if units[i].op == "images" else i for i in takers}) > 1:
        raise Differs("it takes several images, the model one")
    views = {i: units[i].parts["view"].before(own.parts["view"]) for i in takers}
    shown = next((units[i] for i in takers if units[i].op == "images"), own)
    for images in _candidates(list(views.values()), shown, graph.image_shape, known, of_pixels):
        orders = {i: view.positions_in(images.view) for i, view in views.items()}
        turned = {i: order or [] for i, order in orders.items() if order != list(range(graph.image_shape[-1]))}
        can_turn = all(unit.op == "conv" and unit.about[2] == 1 for i in turned for unit in takers[i])
        if not turned or (all(turned.values()) and can_turn and not of_pixels):
            break
    else:
        instead = f"; the preprocessing makes {View.made_by(known, 255)} of pixels" if known else ""
        there = next(iter(takers.values()))[0] if shown is own else f"{_since(shown)} ({shown.parts['view']}{instead})"
        raise OtherImages(f"where the model has {own if own.op == 'images' else layer}, the graph has {there}")
    text = "the channels of its images are in the order that {} turns, which the first kernel takes up"
    images = images._replace(assumed=(*images.assumed, *(text.format(_since(units[i])) for i in turned)))
    theirs, place = on_images(graph, turned, {unit.about for unit in ours.units if unit.op == "dense"})
    theirs.output = place[end]
    return paired(on_images(ours)[0], theirs), images


def _candidates(
    views: Sequence[View], shown: Unit, shape: ImageShape, known: Preprocessing | None, of_pixels: bool
) -> Iterator[Images]:
    """What a graph with these views of its images, the first of them `shown`, may make of them, in turn."""
    *size, channels = shape
    made = f"({_since(shown)}: {shown.parts['view']})"
    yield Images(View.of(channels))
    if known is not None:
        text = f"normalises its images itself {made}, as the preprocessing does: {PREPROCESSED}"
        for most in (255, 1) if len(known.mean) == channels else ():
            yield Images(View.made_by(known, most), warning=text)
        return
    for view in views:
        recipe, most = (view.recipe_of_pixels if of_pixels else view.recipe)((size[0], size[1]))
        if recipe is not None and len(recipe.mean) == channels:
            text = f"its graph, which normalises the images itself {made}, takes them from 0 to {most}"
            ordered = view if of_pixels else view.picked(np.argsort(view.channels))
            yield Images(ordered, recipe, () if of_pixels else (text,))


def _takers(units: Units, end: int) -> dict[int, list[Unit]]:
    """Position of a view of the images -> the layers behind it, of those that lead to the position `end`."""
    takers: dict[int, list[Unit]] = {}
    for i in sorted(leading_to([end], lambda i: units.units[i].inputs)):
        for k in units.units[i].inputs if units.units[i].op != "images" else ():
            if "view" in units.units[k].parts:
                takers.setdefault(k, []).append(units.units[i])
    return takers


def _since(unit: Unit) -> str:
    """The nodes that make a view of the images, in words."""
    first = unit.parts.get("since", unit.name)
    return unit.name if first == unit.name else f"{first} to {unit.name}"


def on_images(
    units: Units, turned: Mapping[int, Sequence[int]] | None = None, dense_sizes: Collection[Hashable] = ()
) -> tuple[Units, list[int]]:
    """The units as if nothing were done to the images before the first layer, and the place of each among those.

    Layers behind a view that is `turned` take all channels of the images instead. A convolution that takes a whole map
    becomes a dense layer of one of `dense_sizes`.
    """
    moved, place = Units(), list[int]()
    for unit in units.units:
        orders = [turned[k] for k in unit.inputs if k in turned] if turned else []
        unit = dataclasses.replace(unit, inputs=tuple(place[k] for k in unit.inputs))
        if unit.op == "images":
            place.append(unit.inputs[0])
            continue
        if orders:
            unit = _turned(unit, orders[0], moved.units[unit.inputs[0]].about[0])
        place.append(moved.add(_as_dense(unit, moved, dense_sizes) if unit.op == "conv" and dense_sizes else unit))
    moved.output = place[units.output]
    return moved, place


def _turned(unit: Unit, positions: Sequence[int], channels: int) -> Unit:
    """A convolution that takes all `channels` of the images, for one that takes those at `positions`."""
    kernel = unit.parts["kernel"]
    turned = np.zeros((*kernel.shape[:2], channels, kernel.shape[-1]), kernel.dtype)
    for i, position in enumerate(positions):
        turned[:, :, position] += kernel[:, :, i]
    return dataclasses.replace(unit.having(kernel=turned), about=(channels, *unit.about[1:]))


def takes_a_whole_map(unit: Unit) -> bool:
    """Whether a unit is a convolution that takes a map as a dense layer does."""
    height, width = unit.parts["kernel"].shape[:2] if unit.op == "conv" else (0, 0)
    return unit.about[2:] == (1, (tuple(range(height)),), (tuple(range(width)),))


def _as_dense(unit: Unit, units: Units, sizes: Collection[Hashable]) -> Unit:
    """The dense layer of one of the `sizes` that a convolution is.

    timm's VGG has a 7x7 convolution and 1x1 after it where others flatten, and Keras' MobileNet a 1x1 at its end.
    """
    height, width, channels, features = unit.parts["kernel"].shape
    size = (height * width * channels, features)
    before = units.units[unit.inputs[0]]
    while before.op in ("relu", "tanh") and before.inputs:
        before = units.units[before.inputs[0]]
    if (
        size not in sizes
        or not takes_a_whole_map(unit)
        or (height * width == 1 and before.op not in ("dense", "average"))
    ):
        return unit
    parts = {**unit.parts, "kernel": unit.parts["kernel"].reshape(size), "channels_first": False}
    return dense(unit.name, unit.inputs, size, **parts)


def _hint(model: Model, units: Sequence[Unit], is_of_images: bool) -> str:
    """A hint for a graph that is not the model's: which one it could be of."""
    if is_of_images and "transform_input" in inspect.signature(registry.builder(model.arch)).parameters:
        return " (transform_input says whether the model normalises its images)"
    kernels = Counter(unit.parts["kernel"].shape for unit in units if unit.op == "conv")
    archs = () if model.fields.get("width", 1) != 1 else (model.arch, *registry.architectures())
    alike = next((arch for arch in archs if kernels == _convolutions(arch)), model.arch)
    return f"; its convolutions are those of {alike}" if alike != model.arch else ""


@functools.cache
def _convolutions(arch: str) -> Counter[tuple[int, ...]]:
    arrays = registry.flat_state(registry.build(arch, seed=None, num_classes=0))
    return Counter(array.shape for array in arrays.values() if array.ndim == 4)


def arrays_of(pairs: Sequence[tuple[Unit, Unit]]) -> dict[str, np.ndarray]:
    """Our arrays; Differs where two nodes with other weights stand for one layer."""
    arrays: dict[str, np.ndarray] = {}
    owners: dict[str, Unit] = {}
    for our, their in pairs:
        for path, array in _filled(our, their).items():
            if path in arrays and not np.array_equal(arrays[path], array):
                nodes = f"{owners[path].name} and {their.name}"
                raise Differs(f"where the model has {our}, the graph has {nodes} with different weights")
            arrays[path], owners[path] = array, their
    return arrays


def as_two_classes(arrays: dict[str, np.ndarray]) -> None:
    """Makes a classifier of one number, which goes into a sigmoid, one of two classes, the first at 0."""
    for path in ("logits.kernel", "logits.bias"):
        arrays[path] = np.concatenate([np.zeros_like(arrays[path]), arrays[path]], axis=-1)


def _filled(our: Unit, their: Unit) -> dict[str, np.ndarray]:
    """Our arrays of one pair of units, with batch norm folded in either.

    `y = scale * (conv(x) + bias - mean) / sqrt(var + epsilon) + shift`: any of these may be missing on either side.
    Raises Differs where the file has what the model has no place for.
    """
    if our.op not in ("conv", "dense", "batch_norm"):
        return {}
    ours: Ours = our.parts["ours"]
    norm: Norm | None = their.parts.get("norm")
    if our.op == "batch_norm":
        arrays, factor = _norm(ours, norm)  # type: ignore[arg-type]
        if np.any(factor != 1):
            raise Differs(f"{their.name} has a scale, and {ours.norm} has none")
        return arrays
    kernel, cells = their.parts["kernel"], our.parts.get("cells", 1)
    if their.parts.get("channels_first") and cells > 1:
        kernel = kernel.reshape(-1, cells, kernel.shape[-1]).transpose(1, 0, 2).reshape(kernel.shape)
    zeros = np.zeros(kernel.shape[-1], np.float32)
    bias = zeros if their.parts["bias"] is None else their.parts["bias"]
    if ours.norm is None:
        if norm is not None:
            factor, shift = norm.scale_and_shift
            kernel, bias = kernel * factor, bias * factor + shift
        if not ours.bias and np.any(bias != 0):
            raise Differs(f"{their.name} has a bias, and {ours.layer} has none")
        return {f"{ours.layer}.kernel": kernel} | ({f"{ours.layer}.bias": bias} if ours.bias else {})
    if norm is None:  # one that at most adds the bias: the variance and epsilon make 1
        shift, bias = (zeros, bias) if ours.bias else (bias, zeros)
        var = zeros + np.float32(1 - ours.epsilon)
        norm = Norm(dict(scale=zeros + 1, bias=shift, mean=zeros, var=var), ours.epsilon)
    arrays, factor = _norm(ours, norm)
    if ours.bias:
        arrays[f"{ours.layer}.bias"] = bias * factor
    else:
        arrays[f"{ours.norm}.mean"] = arrays[f"{ours.norm}.mean"] - bias * factor
    return arrays | {f"{ours.layer}.kernel": kernel if ours.norm_scale else kernel * factor}


def _norm(ours: Ours, norm: Norm) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Our batch norm's arrays, and the scale that belongs into the layer before it where ours has none."""
    weights = norm.weights
    # the float32 that files store of an epsilon is not a change of it
    same = np.float32(norm.epsilon) == np.float32(ours.epsilon)
    var = weights["var"] if same else weights["var"] + (norm.epsilon - ours.epsilon)
    own = {"scale": weights["scale"]} if ours.norm_scale else {}
    factor = np.ones((), np.float32) if ours.norm_scale else weights["scale"]
    mean = weights["mean"] if ours.norm_scale else weights["mean"] * factor
    arrays = dict(bias=weights["bias"], mean=mean, var=var, **own)
    return {f"{ours.norm}.{name}": array for name, array in arrays.items()}, factor
