"""Whole Keras models that people built on a backbone: it is found inside, by what it computes.

What the graph makes of the images in front of it is its preprocessing; what follows it is left out, or its classifier.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from transfer.errors import TransferError, UsageError
from transfer.models import registry
from transfer.models.graph.trace import leading_to, trace
from transfer.preprocess.recipe import Preprocessing
from transfer.runtime.files.untrusted import DAMAGE_ERRORS, error_summary, printable
from transfer.weights import catalogue, channels, identify
from transfer.weights.keras_units import IDLE, KerasUnits, Layer, image_shape
from transfer.weights.named_graph import IMAGES, USUAL_IMAGE
from transfer.weights.names import libraries, name_map, shapes_of
from transfer.weights.onnx.follow import ODD_SIDES, arrays_of
from transfer.weights.onnx.images import TOLERANCE, View
from transfer.weights.onnx.our_units import OurUnits
from transfer.weights.onnx.units import Differs, Unit, Units, paired
from transfer.weights.readers import Described

FILE = "file"
ORDERS = {(0, 1, 2): "rgb", (2, 1, 0): "bgr", (0,): "grey"}
SHOWN, MOST_COMPARED = 6, 8


class Wanted(NamedTuple):
    """What is looked for in a file: an architecture with `fields`, which its record or the caller has `fixed` or not.

    `libraries` are those whose names the file may have, `prefix` the name of the model inside it, and `head` says
    whether the file's is taken.
    """

    arch: str
    fields: Mapping[str, Any]
    fixed: bool
    libraries: Sequence[str] = ()
    prefix: str | None = None
    head: str | None = None

    @property
    def variants(self) -> list[dict[str, Any]]:
        """The fields, and those of Keras' own networks where nothing says otherwise."""
        own = () if self.fixed else [each for each in catalogue.records().values() if each.arch == self.arch]
        keras = [{**dict(each.fields), **self.fields} for each in own if each.name_map == "keras"]
        return [dict(self.fields), *(each for each in keras if each != self.fields)]


class Taken(NamedTuple):
    """The network of a file: its arrays by dotted path with the preprocessing; fields that the caller has not named."""

    tensors: Described
    fields: Mapping[str, Any]


class _Base(NamedTuple):
    """A backbone in a file: where its units end, those of the whole file, and its arrays."""

    end: int
    name: str
    arrays: Mapping[str, np.ndarray]


def take(tensors: Described, wanted: Wanted, file: str, name: str) -> Taken:
    """The network in a whole Keras model.

    Raises:
      Differs: it is not there, or computes something else; the message says where they part.
      TransferError: several with different weights are, or its head is wanted and none of the architecture.
    """
    shape, usual = image_shape(tensors.network), IMAGES.get(wanted.arch, USUAL_IMAGE)
    sides = tuple(side or other for side, other in zip(shape, usual, strict=True))
    graph, problem = _graph(tensors, sides), None
    for fields in wanted.variants:
        try:
            base = _base(graph, wanted, fields, file)
            preprocessing = _preprocessing(_seen(graph, base.end), sides[:2])
            for side in ODD_SIDES if 0 in shape[:2] else ():
                odd = tuple(had or other for had, other in zip(shape, (side, side, sides[2]), strict=True))
                _base(_graph(tensors, odd), wanted, fields, file)
        except (Differs, UsageError) as error:
            problem = problem or error
            continue
        arrays, used = base.arrays, base.end
        said: Mapping[str, Any] = fields
        last = _last_dense(graph)
        if wanted.head == FILE or (last is not None and _is_named(wanted, fields, graph, last)):
            try:
                arrays, said = _classifier(graph, wanted, fields, last)
                used = graph.end or used
            except (Differs, UsageError) as error:
                if wanted.head == FILE:
                    text = f"{file} has no head that {name} can have (head='file'): {error}; behind the network stand "
                    text += _behind(graph, base.end) or "no layers"
                    raise TransferError(
                        f"{text}; num_classes=0 takes it alone, num_classes=N with a new head"
                    ) from error
        elif last is None:
            arrays = {**arrays, **_named_classifier(tensors, wanted, fields)}
        _log(graph, used, base, file, name)
        result = Described(arrays, tensors.says, assumed=tensors.assumed)
        result.preprocessing = preprocessing
        return Taken(result, {field: value for field, value in said.items() if field not in wanted.fields})
    like = identify.other_than(wanted.arch, wanted.libraries or libraries(wanted.arch), tensors)
    if like and like.sure:
        raise Differs(f"{file} does not fit {name}: its {len(tensors)} tensors look like {like.phrase}")
    raise Differs(f"{file} does not fit {name}: {problem}; by_names=True (convert: --by_names) looks at names alone")


def _graph(tensors: Described, shape: Sequence[int]) -> KerasUnits:
    try:
        return KerasUnits(tensors.network, tensors, tuple(shape))  # type: ignore[arg-type]
    except DAMAGE_ERRORS as error:
        raise Differs(f"its configuration is none of a model ({error_summary(error)})") from error


def _traced(arch: str, fields: Mapping[str, Any], classes: int, shape: Sequence[int]) -> OurUnits:
    built = registry.build(arch, seed=None, **{**channels.fields(arch, fields, shape[-1]), "num_classes": classes})
    return OurUnits(trace(built, (1, *shape), with_values=True))


def _on_images(graph: KerasUnits) -> tuple[Units, list[int]]:
    """The units as if nothing were done to the images in front of them; and the place of each among those."""
    units = Units()
    place: list[int] = []
    for unit in graph.units:
        inputs = tuple(place[i] for i in unit.inputs)
        moved = Unit(unit.op, unit.name, inputs, unit.about, unit.parts, unit.text)
        place.append(inputs[0] if unit.op == "images" else units.add(moved))
    return units, place


def _base(graph: KerasUnits, wanted: Wanted, fields: Mapping[str, Any], file: str) -> _Base:
    """The backbone in a file; its last mean over the map, which others have another layer in place of, is no part."""
    ours, (theirs, place) = _traced(wanted.arch, fields, 0, graph.image_shape), _on_images(graph)
    if ours.units[ours.output].op == "average":
        (ours.output,) = ours.units[ours.output].inputs
    known: dict[Any, int] = {}
    number, numbers = ours.signatures(known)[ours.output], theirs.signatures(known)
    ends = [i for i, unit in enumerate(graph.units) if unit.op != "images" and numbers[place[i]] == number]
    if not ends:
        theirs.output = len(theirs.units) - 1
        reason = f" ({graph.problem})" if graph.problem else ""
        if not any(unit.op == "conv" for unit in theirs.units):
            raise Differs(str(graph.problem or "it has no convolution"))
        try:
            paired(ours, theirs)
        except Differs as error:
            raise Differs(f"{error}{reason}") from error
    bases = []
    for end in ends[:MOST_COMPARED]:
        theirs.output = place[end]
        owner = graph.owners[end]
        path = "/".join(owner.path[:-1]) if owner else ""
        if wanted.prefix in (None, path, path + "/"):
            bases.append(_Base(end, path, arrays_of(paired(ours, theirs))))
    names = ", ".join(dict.fromkeys(repr(printable(base.name)) for base in bases))
    if not bases:
        raise TransferError(f"{file} has no such network under prefix={printable(wanted.prefix)!r}")
    if not all(np.array_equal(base.arrays[p], array) for base in bases for p, array in bases[0].arrays.items()):
        raise TransferError(f"{file} holds several networks, under {names}; choose one by prefix=")
    return bases[0]


def _seen(graph: KerasUnits, end: int) -> View:
    """The images as the layers up to a unit see them."""
    needed = [graph.units[i] for i in leading_to([end], lambda i: graph.units[i].inputs)]
    seen = [graph.units[k].parts.get("view") for unit in needed if unit.op != "images" for k in unit.inputs]
    views = [view for view in seen if view is not None]
    if not all(_same(views[0], view) for view in views):
        raise Differs("its branches take the images in several ways")
    return views[0]


def _same(view: View, other: View) -> bool:
    pairs = ((view.scale, other.scale), (view.bias, other.bias))
    close = all(np.allclose(one, two, TOLERANCE, TOLERANCE) for one, two in pairs)
    return np.array_equal(view.channels, other.channels) and close


def _preprocessing(view: View, size: Sequence[int]) -> Preprocessing | None:
    """The same as a recipe for pixels of 0..255; None where nothing is done to the images."""
    if _same(view, View.of(len(view.channels))):
        return None
    order = ORDERS.get(tuple(map(int, view.channels)))
    if order is None or not (np.isfinite(view.bias).all() and np.isfinite(view.scale).all() and (view.scale > 0).all()):
        raise Differs(f"what it does to its images ({view}) is no preprocessing that is known here")
    is_one = len(set(view.scale.tolist())) == 1
    scale, std = (float(view.scale[0]), np.ones(1)) if is_one else (1.0, 1 / view.scale)
    mean = -view.bias * std
    return Preprocessing((int(size[0]), int(size[1])), channels=order, scale=scale, mean=tuple(mean), std=tuple(std))


def _last_dense(graph: KerasUnits) -> int | None:
    """The dense layer that the file's first output is, if it is one."""
    end = graph.outputs[0] if graph.outputs else None
    return end if end is not None and graph.units[end].op == "dense" else None


def _is_named(wanted: Wanted, fields: Mapping[str, Any], graph: KerasUnits, last: int) -> bool:
    """Whether the last layer has the name of the architecture's own classifier."""
    owner, shapes = graph.owners[last], shapes_of(registry.build(wanted.arch, seed=None, **fields))
    if owner is None or "keras" not in libraries(wanted.arch):
        return False
    return name_map(wanted.arch, "keras", shapes).in_classifier(f"{owner.path[-1]}/")


def _named_classifier(
    tensors: Mapping[str, np.ndarray], wanted: Wanted, fields: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The classifier by the architecture's own names, all or nothing, where the file ends in no dense layer.

    MobileNet's is a convolution, whose values are reshaped.
    """
    shapes = shapes_of(registry.build(wanted.arch, seed=None, **fields))
    names = name_map(wanted.arch, "keras", shapes) if "keras" in libraries(wanted.arch) else None
    sources = {path: names.sources[path] for path in shapes if names.fills_classifier(path)} if names else {}
    if not all(source.name in tensors for source in sources.values()):
        return {}
    return {path: source.convert(tensors[source.name], shapes[path]) for path, source in sources.items()}


def _classifier(
    graph: KerasUnits, wanted: Wanted, fields: Mapping[str, Any], last: int | None
) -> tuple[Mapping[str, np.ndarray], Mapping[str, Any]]:
    """The arrays of the whole network with its classifier, and its fields; Differs where they are not ours."""
    if last is None:
        raise Differs(str(graph.problem or "it does not end in a Dense layer"))
    theirs, place = _on_images(graph)
    theirs.output = place[last]
    sizes: list[Any] = [theirs.units[i].about[1] for i in theirs.needed() if theirs.units[i].op == "dense"]
    *hidden, classes = sizes
    if graph.activation == "sigmoid" and classes > 1:
        raise Differs("its last function is a sigmoid: the classes do not exclude each other")
    variants = [fields]
    if "hidden" in registry.defaults(wanted.arch) and "hidden" not in wanted.fields:
        variants.append({**fields, "hidden": tuple(round(size / fields.get("width", 1)) for size in hidden)})
    problem: Exception | None = None
    for variant in variants:
        try:
            arrays = arrays_of(paired(_traced(wanted.arch, variant, classes, graph.image_shape), theirs))
        except (Differs, UsageError) as error:
            problem = error
            continue
        if graph.activation == "sigmoid":  # of two classes, the first at 0
            for path in ("logits.kernel", "logits.bias"):
                arrays[path] = np.concatenate([np.zeros_like(arrays[path]), arrays[path]], axis=-1)
        return arrays, variant
    raise Differs(str(problem))


def _behind(graph: KerasUnits, end: int) -> str:
    """The layers that do not lead to a unit, nor do anything to the images alone."""
    inside = leading_to([end], lambda i: graph.units[i].inputs)
    inside |= {i for i, unit in enumerate(graph.units) if unit.op in ("images", "input")}

    def is_behind(layer: Layer, unit: int | None) -> bool:
        reshapes = unit == end and layer is not graph.owners[end]
        return (reshapes or unit not in inside) and layer.kind not in IDLE

    titles = [layer.title for layer, unit in graph.calls if is_behind(layer, unit)]
    return ", ".join(titles[:SHOWN]) + (", …" if titles[SHOWN:] else "")


def _log(graph: KerasUnits, end: int, base: _Base, file: str, name: str) -> None:
    """Says what of a file is taken, and which layers are left out."""
    rest = _behind(graph, end)
    if base.name or rest:
        where = f" lies under {printable(base.name)!r}" if base.name else " has layers behind it"
        logging.info("%s: the network in %s%s%s", name, file, where, rest and f"; left out: {rest}")
