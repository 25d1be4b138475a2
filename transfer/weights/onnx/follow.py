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
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from transfer.errors import UsageError
from transfer.models import registry
from transfer.models.graph.trace import leading_to, trace
from transfer.preprocess.recipe import Preprocessing
from transfer.runtime.files.untrusted import prefix_errors
from transfer.weights.names import PYTORCH, NameMap, Shape, name_map
from transfer.weights.onnx.images import Known, View, known_views
from transfer.weights.onnx.our_units import Ours, OurUnits
from transfer.weights.onnx.reading import GraphUnits
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
            pairs, views = _compared(graph, output, model)
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
            if views.warning:
                logging.warning("%s: %s %s", name, file, views.warning)
            tensors.preprocessing, tensors.assumed = views.preprocessing, views.assumed
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


def _compared(graph: GraphUnits, output: int, model: Model) -> tuple[list[tuple[Unit, Unit]], "_Views"]:
    """Our units with those that lead to an output of a graph, and what the graph makes of its images.

    Raises Differs where the graph is not the model's, UsageError where the model does not take images of this size.
    """
    needed = sorted(leading_to([output], lambda i: graph.units[i].inputs))
    last = next((graph.units[i] for i in reversed(needed) if graph.units[i].op == "dense"), None)
    classes = last.parts["kernel"].shape[1] if last else 0
    built = registry.build(model.arch, seed=None, **{**model.fields, "num_classes": classes})
    ours = OurUnits(trace(built, (1, *graph.image_shape), with_values=True))
    views = _Views(graph, needed, ours.views, model)
    dense_sizes = {unit.about for unit in ours.units if unit.op == "dense"}
    theirs = _in_our_terms(graph, needed, views, dense_sizes)
    try:
        return paired(ours, theirs), views
    except Differs as error:
        raise Differs(f"{error}{_hint(model, bool(ours.views), theirs)}") from error


class _Views:
    """What a graph makes of its images before the first layer, in terms of a model's own views of them.

    Attributes:
      found: position of a unit of `images` -> what of the model's it is; not of one that is nothing of it.
      turned: position of one that has other channels, or in another order -> which; the layers behind it take them so.
      preprocessing: what the graph does itself, where nothing is known of how the model's images are made.
      assumed: sentences on what the graph leaves open.
      warning: what else is to be said of it.
    """

    def __init__(self, graph: GraphUnits, needed: Sequence[int], own: Sequence[View], model: Model) -> None:
        self.found: dict[int, Known] = {}
        self.turned: dict[int, list[int]] = {}
        self.preprocessing: Preprocessing | None = None
        self.warning = ""
        self.assumed: list[str] = []
        self._graph, self._needed, self._own = graph, needed, own
        self._known = known_views(graph.image_shape[-1], own, model.preprocessing)
        of_ours = [str(known.view) for known in self._known if not known.is_preprocessed]
        self.instead = f"; the preprocessing makes {of_ours[0]} of pixels" if of_ours else ""
        for i in (i for i in needed if graph.units[i].op == "images"):
            if not self._find(i) and not (model.preprocessing or self.preprocessing) and self._read(graph.units[i]):
                self._find(i)
        before = [known for known in self.found.values() if not known.is_preprocessed]
        direct = [i for i in needed if graph.units[i].op != "images" and 0 in graph.units[i].inputs]
        if before and (direct or any(known is not before[0] for known in self.found.values())):
            self.found, self.turned = {}, {}  # of one preprocessing all of the graph would take its images

    def _read(self, unit: Unit) -> bool:
        """Whether a view is preprocessing of its own, which then counts as the model's."""
        channels, view = self._graph.image_shape[-1], unit.parts["view"]
        read = view.before(self._own[-1] if self._own else View.of(channels)).preprocessing(self._graph.image_shape[:2])
        if read:
            self.preprocessing, most = read
            self._known = known_views(channels, self._own, self.preprocessing)
            made = f"which normalises the images itself ({_since(unit)}: {view})"
            self.assumed.append(f"its graph, {made}, takes them from 0 to {most}")
        return read is not None

    def _find(self, i: int) -> bool:
        """Whether the view at position `i` is a known one, as it is or with other channels for layers behind it."""
        view, since = self._graph.units[i].parts["view"], _since(self._graph.units[i])
        takers = [self._graph.units[k] for k in self._needed if i in self._graph.units[k].inputs]
        can_turn = all(unit.op == "conv" and unit.about[2] == 1 for unit in takers)
        for known in self._known:
            positions = view.positions_in(known.view)
            in_order = positions == list(range(len(known.view.channels)))
            if positions and (in_order or can_turn):
                break
        else:
            return False
        self.found[i] = known
        if not in_order:
            self.turned[i] = positions or []
            text = "the channels of its images are in the order that {} turns, which the first kernel takes up"
            self.assumed.append(text.format(since))
        if not known.is_preprocessed and self.preprocessing is None:
            made = f"({since}: {view}), as the preprocessing does: {PREPROCESSED}"
            self.warning = f"normalises its images itself {made}"
        return True


def _since(unit: Unit) -> str:
    """The nodes that make a view of the images, in words."""
    first = unit.parts["since"]
    return unit.name if first == unit.name else f"{first} to {unit.name}"


def _in_our_terms(graph: GraphUnits, needed: Sequence[int], views: _Views, dense_sizes: set[tuple[Any, ...]]) -> Units:
    """The `needed` units of a graph, what they make of the images by its number in our model."""
    theirs, place = Units(), dict[int, int]()
    for i in needed:
        unit = graph.units[i]
        turned = next((views.turned[k] for k in unit.inputs if k in views.turned), None)
        unit = dataclasses.replace(unit, inputs=tuple(place[k] for k in unit.inputs))
        if unit.op == "images":
            known, name = views.found.get(i), _since(unit)
            if known and known.number is None:
                place[i] = unit.inputs[0]
                continue
            about, text = (known.number,) if known else (name, i), f"{unit.parts['view']}{views.instead}"
            unit = dataclasses.replace(unit, name=name, about=about, text=text)
        elif unit.op == "conv":
            unit = unit if turned is None else _turned(unit, turned, graph.image_shape[-1])
            unit = _as_dense(unit, theirs, dense_sizes)
        place[i] = theirs.add(unit)
    theirs.output = place[needed[-1]]
    return theirs


def _turned(unit: Unit, positions: Sequence[int], channels: int) -> Unit:
    """A convolution that takes all `channels` of the images, for one that takes those at `positions`."""
    kernel = unit.parts["kernel"]
    turned = np.zeros((*kernel.shape[:2], channels, kernel.shape[-1]), kernel.dtype)
    for i, position in enumerate(positions):
        turned[:, :, position] += kernel[:, :, i]
    return dataclasses.replace(unit.having(kernel=turned), about=(channels, *unit.about[1:]))


def _as_dense(unit: Unit, units: Units, dense_sizes: set[tuple[Any, ...]]) -> Unit:
    """timm's VGG has a 7x7 convolution and 1x1 after it where others flatten: such are dense layers."""
    height, width, channels, features = unit.parts["kernel"].shape
    sizes = (height * width * channels, features)
    before = units.units[unit.inputs[0]]
    while before.op in ("relu", "tanh") and before.inputs:
        before = units.units[before.inputs[0]]
    is_whole = unit.about[2:] == (1, (tuple(range(height)),), (tuple(range(width)),))
    if sizes not in dense_sizes or not is_whole or (height * width == 1 and before.op != "dense"):
        return unit
    parts = {**unit.parts, "kernel": unit.parts["kernel"].reshape(sizes), "channels_first": False}
    return dense(unit.name, unit.inputs, sizes, **parts)


def _hint(model: Model, normalises: bool, theirs: Units) -> str:
    """A hint for a graph that is not the model's: which one it could be of."""
    one_normalises = normalises != any(unit.op == "images" for unit in theirs.units)
    if one_normalises and "transform_input" in inspect.signature(registry.builder(model.arch)).parameters:
        return " (transform_input says whether the model normalises its images)"
    kernels = Counter(unit.parts["kernel"].shape for unit in theirs.units if unit.op == "conv")
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
            weights = {name: array.astype(np.float64) for name, array in norm.weights.items()}
            factor = weights["scale"] / np.sqrt(weights["var"] + norm.epsilon)
            kernel, bias = kernel * factor, bias * factor + (weights["bias"] - weights["mean"] * factor)
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
