"""A network filled with the tensors of a file: in the file's sizes, strictly, and then in the sizes asked for."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx

from transfer.models import registry
from transfer.runtime.files.untrusted import prefix_errors
from transfer.weights import assumed, channels, identify, spellings
from transfer.weights.asked import Asked, Told
from transfer.weights.load import Likeness, fit, require_fit, require_numbers
from transfer.weights.names import CLASSIFIER_LAYER, NameMap, Shape, name_map, shapes_of
from transfer.weights.onnx.follow import Model, as_two_classes, follow
from transfer.weights.onnx.units import Unit, check_last
from transfer.weights.readers import Described
from transfer.weights.readers.onnx_file import OnnxTensors
from transfer.weights.spellings import Place

CLASSIFIER_BIAS = "logits.bias"
BUT_THE_CLASSIFIER = "; all but the classifier fits: num_classes=0 leaves it out, num_classes=N makes a new one"
LEAVE_OUT = "; num_classes=0 leaves the classifier out; by_names=True (convert: --by_names) looks at names alone"
NO_PART = "; if they are no part of the network, save it without them"


class Network(NamedTuple):
    """A network, and what is known of it before it has its numbers.

    Attributes:
      fields: those that it is built with.
      renewed: the paths of arrays that are random beside those of a file.
    """

    arch: str
    fields: Mapping[str, Any]
    model: nnx.Module
    shapes: Mapping[str, Shape]
    renewed: Sequence[str] = ()

    @classmethod
    def of(cls, arch: str, fields: Mapping[str, Any], seed: int | None = None) -> "Network":
        """One with random numbers, or where there is no seed, with none."""
        model = registry.build(arch, seed=seed, **fields)
        return cls(arch, fields, model, shapes_of(model))

    @property
    def classes(self) -> int:
        """The number of classes of the network's classifier; 0 where it has none."""
        return self.shapes.get(CLASSIFIER_BIAS, (0,))[0]

    @property
    def channels(self) -> int:
        """The number of channels of the network's images."""
        return channels.of_model(self.arch, self.fields)

    @property
    def built_with(self) -> tuple[tuple[str, Any], ...]:
        """Its fields, the number of classes among them."""
        fields = {**self.fields, "num_classes": self.classes}
        return tuple((name, tuple(each) if isinstance(each, list) else each) for name, each in fields.items())

    def sized(self, classes: int, images: int) -> "Network":
        """The same for so many classes and channels of images."""
        if (classes, images) == (self.classes, self.channels):
            return self
        return Network.of(self.arch, {**channels.fields(self.arch, self.fields, images), "num_classes": classes})


def fill(asked: Asked, told: Told) -> Network:
    """The model that is asked for, filled strictly from what a file tells; what is left open goes to `told.assumed`.

    Raises TransferError: the tensors do not fit; the message says what they look like, or what is missing, unexpected
    and misshapen. Or there is NaN in them.
    """
    network = Network.of(asked.arch, {**told.fields, **({"num_classes": 0} if asked.is_headless else {})})
    functions: Sequence[Unit] = ()
    if isinstance(told.tensors, OnnxTensors) and not asked.by_names:
        functions = _follow(asked, told, network)
    maps = [name_map(asked.arch, library, network.shapes) for library in told.libraries]
    place = spellings.find(told.tensors, maps, network.shapes, told.prefix, str(told.file))
    names = spellings.with_last_layer(place.names, place.tensors)
    in_file = _classes_in_file(names, place.tensors) if asked.takes_classifier else 0
    wanted = next(number for number in (asked.num_classes, in_file, network.classes) if number is not None)
    of_file = channels.of_file(asked.arch, names, place.tensors, network.shapes) or network.channels
    network = network.sized(wanted, of_file)
    names = names.only(network.shapes)
    if wanted and (asked.num_classes or (asked.new_classifier and in_file)):
        network = network._replace(renewed=_renewed(asked, names, place.tensors, network.shapes))
    if functions and asked.takes_classifier and not network.renewed:
        with prefix_errors(f"{told.file} does not fit {asked.name}"):
            check_last(functions, LEAVE_OUT)
        told.assumed.append(f"the logits are what goes into {functions[0].name}")
    arrays = _fitted(asked, told, place, names, network)
    told.assumed += assumed.of_network(asked, told, names.library, network.shapes)
    last = names.sources.get(CLASSIFIER_BIAS)
    if last and not network.renewed and last != place.names.sources[CLASSIFIER_BIAS]:
        told.assumed.append(f"{last.name} is of a linear layer with only dropout before it")
    arrays |= _random(asked, told, network, in_file)
    of_images = of_file if asked.in_channels is None else asked.in_channels
    if of_images != of_file:
        kernel = channels.first_kernel(asked.arch)
        arrays[kernel] = channels.adapted(arrays[kernel], of_images)
        network = network.sized(wanted, of_images)._replace(renewed=network.renewed)
    channels.log(asked.arch, of_file, asked.in_channels, asked.name, str(told.file))
    registry.load_flat_state(network.model, {path: jnp.asarray(array, jnp.float32) for path, array in arrays.items()})
    return network


def _follow(asked: Asked, told: Told, network: Network) -> Sequence[Unit]:
    """Puts the arrays that a graph's edges lead to in place of the tensors that it takes; the functions behind them."""
    graph: Any = told.tensors
    of_graph = graph.graph.image_shape[-1]
    fields = channels.fields(asked.arch, told.fields, of_graph)
    model = Model(asked.arch, fields, channels.recipe(told.preprocessing, of_graph))
    arrays = follow(graph, model, told.libraries, network.shapes, str(told.file), asked.name)
    is_binary = [unit.op for unit in graph.functions] == ["sigmoid"] and len(arrays.get(CLASSIFIER_BIAS, ())) == 1
    if is_binary:
        as_two_classes(arrays)
    told.tensors = Described(arrays, assumed=graph.assumed, preprocessing=graph.preprocessing)
    told.libraries = ("native",)
    return () if is_binary else graph.functions


def _classes_in_file(names: NameMap, tensors: Mapping[str, np.ndarray]) -> int | None:
    """Size of the classifier in the file; 0 if the file has nothing of one, None if it has another one or a part."""
    bias = names.sources[CLASSIFIER_BIAS].name
    if bias in tensors and tensors[bias].ndim == 1:
        return len(tensors[bias])
    return None if any(map(names.in_classifier, tensors)) else 0


def _renewed(asked: Asked, names: NameMap, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]) -> list[str]:
    """The arrays of a classifier that the file cannot fill: the last layer, or all where a hidden one is not ours."""
    arrays, report = fit(tensors, shapes, names)
    classifier = [path for path in shapes if names.fills_classifier(path)]
    last = [path for path in classifier if path.startswith(CLASSIFIER_LAYER)]
    if not asked.takes_classifier or any(path not in arrays for path in classifier if path not in last):
        return classifier
    is_other = any(path not in arrays for path in last) or any(map(names.in_classifier, report.unexpected))
    return last if asked.new_classifier or is_other else []


def _fitted(asked: Asked, told: Told, place: Place, names: NameMap, network: Network) -> dict[str, np.ndarray]:
    """All arrays of a network but for the renewed ones; TransferError where tensors do not fit or hold no numbers."""
    file = str(told.file)
    arrays, report = fit(place.tensors, network.shapes, names, network.renewed)
    body_fits = not report.fits and place.fits(network.shapes)
    advice = BUT_THE_CLASSIFIER if body_fits else "" if report.missing or report.misshapen else NO_PART

    def likeness() -> Likeness | None:
        return identify.other_than(asked.arch, told.libraries, told.tensors)

    require_fit(report, file, asked.name, names.library, likeness, advice)
    require_numbers(arrays, names, file, asked.name)
    place.log(file, asked.name)
    return arrays


def _random(asked: Asked, told: Told, network: Network, in_file: int | None) -> dict[str, np.ndarray]:
    """The arrays that are renewed; says so, or that there is no classifier, which is of `in_file` classes there."""
    if in_file == 0 and asked.num_classes is None:
        logging.info("%s: %s has no classifier, so the model has none (num_classes=0)", asked.name, told.file)
    if not network.renewed:
        return {}
    instead = "" if network.classes == in_file else f" instead of {'another' if in_file is None else in_file}"
    text = "%s: a new classifier for %d classes%s, which starts with random weights (%s)"
    logging.info(text, asked.name, network.classes, instead, ", ".join(network.renewed))
    random = registry.flat_state(registry.build(asked.arch, seed=asked.seed, **dict(network.built_with)))
    return {path: np.asarray(random[path]) for path in network.renewed}
