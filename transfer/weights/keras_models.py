"""Whole Keras models that people built on a backbone: it is found inside, by what it computes.

What the graph makes of the images in front of it is its preprocessing; what follows it is left out, or its classifier.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from transfer.errors import TransferError, UsageError
from transfer.models import registry
from transfer.models.graph.trace import leading_to
from transfer.preprocess.recipe import Preprocessing
from transfer.runtime.files.untrusted import DAMAGE_ERRORS, error_summary, printable
from transfer.weights import catalogue, identify
from transfer.weights.asked import Asked, Told
from transfer.weights.keras_units import IDLE, KerasUnits, Layer, image_shape
from transfer.weights.maps import family
from transfer.weights.named_graph import IMAGES, USUAL_IMAGE
from transfer.weights.onnx.follow import ODD_SIDES, arrays_of, as_two_classes, matched, on_images, takes_a_whole_map
from transfer.weights.onnx.our_units import OurUnits
from transfer.weights.onnx.units import Differs, check_last
from transfer.weights.readers import Described

SHOWN, MOST_COMPARED = 6, 8


class _Network(NamedTuple):
    """A network in a file: where its units end, its name there, its arrays and what is done to its images first.

    `assumed` are sentences on what the file leaves open.
    """

    end: int
    name: str
    arrays: Mapping[str, np.ndarray]
    preprocessing: Preprocessing | None
    fields: Mapping[str, Any]
    assumed: Sequence[str] = ()


def take(asked: Asked, told: Told) -> None:
    """Puts the network in a whole Keras model in place of all its tensors.

    Raises:
      Differs: it is not there, or computes something else; the message says where they part.
      TransferError: several with different weights are, or its head is wanted and none of the architecture.
    """
    tensors, file, name = told.tensors, told.file, asked.name
    shape, usual = image_shape(tensors.network), IMAGES.get(asked.arch, USUAL_IMAGE)
    height, width, channels = sides = tuple(side or other for side, other in zip(shape, usual, strict=True))
    graph, problem = _graph(tensors, sides), None
    for fields in _variants(asked, told):
        try:
            network = base = _base(graph, asked, told, fields)
            for side in ODD_SIDES if 0 in shape[:2] else ():
                odd = tuple(had or other for had, other in zip(shape, (side, side, channels), strict=True))
                _base(_graph(tensors, odd), asked, told, fields)
        except (Differs, UsageError) as error:
            problem = problem or error
            continue
        if asked.takes_head or _is_named(graph, asked.arch):
            try:
                graphs = (graph, *_at_another_size(tensors, channels))
                network, *_ = [_with_classifier(each, asked, told, fields) for each in graphs]
            except (Differs, UsageError) as error:
                if asked.takes_head:
                    text = f"{file} has no head that {name} can have (head='file'): {error}; behind the network stand "
                    text += _behind(graph, base.end) or "no layers"
                    text += "; num_classes=0 takes it alone, num_classes=N with a new head"
                    raise TransferError(text) from error
        _log(graph, network.end, base.name, str(file), name)
        sentences = [*tensors.assumed, *network.assumed]
        told.tensors = Described(network.arrays, tensors.says, None, sentences, network.preprocessing)
        told.tensors.image_size = None if 0 in shape[:2] else (height, width)
        told.fields, told.libraries, told.prefix = network.fields, ("native",), None
        return
    like = identify.other_than(asked.arch, told.libraries, tensors)
    if like and like.sure and not like.as_taken:
        raise Differs(f"{file} does not fit {name}: its {len(tensors)} tensors look like {like.phrase}")
    raise Differs(f"{file} does not fit {name}: {problem}; by_names=True (convert: --by_names) looks at names alone")


def _variants(asked: Asked, told: Told) -> list[Mapping[str, Any]]:
    """The fields, and those of Keras' own networks where nothing says otherwise."""
    own = () if asked.record else [each for each in catalogue.records().values() if each.arch == asked.arch]
    keras = [{**dict(each.fields), **told.fields} for each in own if each.name_map == "keras"]
    return [told.fields, *(each for each in keras if each != told.fields)]


def _graph(tensors: Described, shape: Sequence[int]) -> KerasUnits:
    try:
        return KerasUnits(tensors.network, tensors, tuple(shape))  # type: ignore[arg-type]
    except DAMAGE_ERRORS as error:
        raise Differs(f"its configuration is none of a model ({error_summary(error)})") from error


def _filled(graph: KerasUnits, ours: OurUnits, end: int) -> tuple[dict[str, np.ndarray], Preprocessing | None]:
    """Our arrays from the units that lead to the position `end`, and what is done to the images first."""
    pairs, images = matched(ours, graph, end, of_pixels=True)
    return arrays_of(pairs), images.preprocessing


def _base(graph: KerasUnits, asked: Asked, told: Told, fields: Mapping[str, Any]) -> _Network:
    """The backbone in a file; its last mean over the map, which others have another layer in place of, is no part."""
    ours = OurUnits.of(asked.arch, fields, 0, graph.image_shape)
    if ours.units[ours.output].op == "average":
        (ours.output,) = ours.units[ours.output].inputs
    (own, _), (theirs, place) = on_images(ours), on_images(graph)
    known: dict[Any, int] = {}
    number, numbers = own.signatures(known)[own.output], theirs.signatures(known)
    ends = [i for i, unit in enumerate(graph.units) if unit.op != "images" and numbers[place[i]] == number]
    if not ends:
        if not any(unit.op == "conv" for unit in graph.units):
            raise Differs(str(graph.problem or "it has no convolution"))
        try:
            matched(ours, graph, len(graph.units) - 1, of_pixels=True)
        except Differs as error:
            raise Differs(f"{error}{f' ({graph.problem})' if graph.problem else ''}") from error
    networks = []
    for end in ends[:MOST_COMPARED]:
        owner = graph.owners[end]
        path = "/".join(owner.path[:-1]) if owner else ""
        if told.prefix in (None, path, path + "/"):
            networks.append(_Network(end, path, *_filled(graph, ours, end), fields))
    names = ", ".join(dict.fromkeys(repr(printable(network.name)) for network in networks))
    if not networks:
        raise TransferError(f"{told.file} has no such network under prefix={printable(told.prefix)!r}")
    first, *others = networks
    if not all(np.array_equal(other.arrays[p], array) for other in others for p, array in first.arrays.items()):
        raise TransferError(f"{told.file} holds several networks, under {names}; choose one by prefix=")
    return first


def _is_named(graph: KerasUnits, arch: str) -> bool:
    """Whether the last layer has the name of the architecture's own classifier."""
    owner = graph.owners[graph.outputs[0]] if graph.outputs else None
    names = family(arch).libraries.get("keras")
    return bool(owner and names) and f"{owner.path[-1]}/".startswith(names.classifier)  # type: ignore[union-attr]


def _with_classifier(graph: KerasUnits, asked: Asked, told: Told, fields: Mapping[str, Any]) -> _Network:
    """The whole network that the file's first output is of; Differs where its classifier is not ours."""
    last = graph.units[graph.outputs[0]] if graph.outputs else None
    if last is None or not (last.op == "dense" or takes_a_whole_map(last)):
        raise Differs(str(graph.problem or "it does not end in a Dense layer"))
    end, output, classes = graph.ends[0], graph.outputs[0], last.about[1]
    functions = graph.functions(0)
    is_binary = classes == 1 and [unit.op for unit in functions] in ([], ["sigmoid"])
    if not is_binary:
        check_last(functions)
    layers = [graph.units[i] for i in sorted(leading_to([output], lambda i: graph.units[i].inputs) - {output})]
    hidden = tuple(round(unit.about[1] / fields.get("width", 1)) for unit in layers if unit.op == "dense")
    if "hidden" not in told.fields and {**registry.defaults(asked.arch), **fields}.get("hidden", hidden) != hidden:
        fields = {**fields, "hidden": hidden}
    arrays, preprocessing = _filled(graph, OurUnits.of(asked.arch, fields, classes, graph.image_shape), output)
    if is_binary:
        as_two_classes(arrays)
    text = f"{last.name} is the last layer and has no function: what it makes is taken for logits"
    return _Network(end, "", arrays, preprocessing, fields, () if functions else (text,))


def _at_another_size(tensors: Described, channels: int) -> Iterator[KerasUnits]:
    """The graph of larger images, if it takes them: of a map of one pixel alone the greatest value is the mean."""
    graph = _graph(tensors, (ODD_SIDES[0], ODD_SIDES[0], channels))
    if graph.problem is None and graph.is_consistent:
        yield graph


def _behind(graph: KerasUnits, end: int) -> str:
    """The layers that do not lead to a unit, nor do anything to the images alone."""
    inside = leading_to([end], lambda i: graph.units[i].inputs)
    inside |= {i for i, unit in enumerate(graph.units) if unit.op in ("images", "input")}

    def is_behind(layer: Layer, unit: int | None) -> bool:
        reshapes = unit == end and layer is not graph.owners[end]
        return (reshapes or unit not in inside) and layer.kind not in IDLE

    titles = [layer.title for layer, unit in graph.calls if is_behind(layer, unit)]
    return ", ".join(titles[:SHOWN]) + (", …" if titles[SHOWN:] else "")


def _log(graph: KerasUnits, end: int, path: str, file: str, name: str) -> None:
    """Says what of a file is taken, and which layers are left out."""
    rest = _behind(graph, end)
    if path or rest:
        where = f" lies under {printable(path)!r}" if path else " has layers behind it"
        logging.info("%s: the network in %s%s%s", name, file, where, rest and f"; left out: {rest}")
