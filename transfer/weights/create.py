"""`create_model`: a backbone by name, with its pretrained weights in it; and `convert_file`, which writes them."""

import os
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx

from transfer.errors import TransferError, UsageError, similar
from transfer.models import registry
from transfer.preprocess.recipe import Preprocessing
from transfer.runtime.files import digest, paths
from transfer.runtime.files.untrusted import printable
from transfer.runtime.progress import waiting
from transfer.weights import (
    assumed,
    beside,
    cache,
    catalogue,
    channels,
    claims,
    hub,
    identify,
    keras_models,
    native,
    readers,
    spellings,
)
from transfer.weights.beside import Beside
from transfer.weights.catalogue import Record
from transfer.weights.load import fit, require_fit, require_numbers
from transfer.weights.names import CLASSIFIER_LAYER, PYTORCH, NameMap, Shape, libraries, name_map, shapes_of
from transfer.weights.onnx.follow import Model, follow
from transfer.weights.readers.onnx_file import OnnxTensors

CLASSIFIER_BIAS = "logits.bias"
BUT_THE_CLASSIFIER = "; all but the classifier fits: num_classes=0 leaves it out, num_classes=N makes a new one"
NO_PART = "; if they are no part of the network, save it without them"
# What is near to a network that is like none of ours.
USUAL_ARCH = "resnet50"


def list_models(pattern: str = "*") -> list[str]:
    """Names of the catalogue that match a shell-style pattern, sorted: `list_models("resnet*")`."""
    return catalogue.names(pattern)


def create_model(
    name: str,
    weights: str | os.PathLike[str] | bool | None = None,
    *,
    num_classes: int | None = None,
    new_classifier: bool = False,
    by_names: bool = False,
    key: str | None = None,
    prefix: str | None = None,
    ema: bool = False,
    in_channels: int | None = None,
    head: str | None = None,
    seed: int = 0,
    **fields: Any,
) -> nnx.Module:
    """A backbone with weights; call it as `output, endpoints = model(x)`.

    Args:
      name: a catalogue name (`"vgg16.keras"`, see `list_models`), an architecture (`"vgg16"`), or a repository of
        timm's or transformers' form on a Hub, `"hf:OWNER/REPO"` or `"hf:OWNER/REPO@REVISION"`, or in a folder.
      weights: None: the record's file, shipped, cached or downloaded. A path: that file, in any format that
        `transfer.weights.readers` knows; for a record in its library's names or our own (torchvision and timm count
        as one), for an architecture in any library's; `PATH.sha256` beside it, if there, must be its SHA-256. Also
        `"hf:OWNER/REPO"`, or a folder with such a repository.
        False: random, from `seed`.
      num_classes: None: as in the file; a file without classifier (Keras' `notop`), or with one that the record calls
        unusable, gives a model without. 0: no classifier, whatever the file has. Another number than the file's: the
        last layer is random, from `seed`.
      new_classifier: the last layer is random even where the file's has as many classes.
      by_names: True: names and shapes that fit are enough, though the file says that it is another function: by its
        graph (ONNX, a whole Keras model), its `arch`, a `config.json` beside it, what it does to its images first.
      key: the state dict in a PyTorch file that holds several (`"teacher"`, `"model.backbone"`).
      prefix: of the names of the tensors to take, where several networks lie in one state dict (`"encoder_q."`).
      ema: True: the moving average of the weights, where a PyTorch file holds one beside them.
      in_channels: of the images, the architecture's field `channels`. None: as in the file. Another number than the
        file's: the first kernel is summed (1 channel: grey images) or repeated and scaled, as in timm.
      head: "file": what follows the network in a whole Keras model is its classifier, if that is one of the
        architecture: one dense layer on the average of the map, for VGG also hidden ones on the flattened map; the
        preprocessing then makes images of the size that the file takes.
      seed: for random weights.
      fields: of the architecture (`width`, `stride_in_1x1`, …), over the record's.

    Returns:
      The model, with the attributes `record` (`Record`, None for an architecture), `weights_sha256` (of the file,
      None for random weights), `in_channels`, `preprocessing` (that a file of ours was written with, else the record's,
      else what a whole Keras model does to its images first, else what stands beside the file, else None; for images of
      so many channels), `renewed` (paths of the arrays that are random beside those of the file: a new classifier),
      `revision` (the commit of weights from a Hub, else None), `label_names` (of the classes, where a `config.json`
      beside the file has them, else empty) and `fields` (of the architecture, as a whole Keras model says them).

    Raises:
      UsageError: unknown name or field; an architecture without `weights`; a choice among tensors of no file.
      TransferError: no file, a damaged one, one with NaN or without floats in it, one of another architecture (the
        message says what it looks like, or lists what does not fit), one that says that it is another function.
    """
    (record, arch, place), chosen = _network(name, weights), fields
    in_channels = chosen.get(channels.FIELD) if in_channels is None else in_channels
    _check_choices(weights, in_channels, head, key is not None or prefix is not None or ema)
    chosen = chosen if in_channels is None else {**chosen, channels.FIELD: in_channels}
    fields = {**dict(record.fields if record else ()), **chosen}
    preprocessing, sha256 = record.preprocessing if record else None, None
    label_names: tuple[str, ...] = ()
    by_file: Mapping[str, Any] = {}
    head = None if num_classes == 0 else head
    if weights is False:
        said = beside.read(place.file) if place else Beside(Path())
        wanted = (record or said).num_classes if num_classes is None else num_classes
        fields = {**said.fields, **fields, **({} if wanted is None else {"num_classes": wanted})}
        model = registry.build(arch, seed=seed, **fields)
    else:
        path, sha256, is_published = _file(name, record, place.file if place else weights, num_classes == 0)
        claims.look_at_name(path, arch, name)
        said = beside.read(path)
        of_file = {**said.fields, **native.fields(path, arch)}
        fields = fields if record else of_file | fields
        fields.pop("num_classes", None)
        with waiting(f"reading {path}"):
            tensors = readers.read(path, key, ema)
        if prefix is None and record and any(each.startswith(f"{record.prefix}.") for each in tensors):
            prefix = record.prefix
        candidates: Sequence[str] = _libraries_of(record) if record else ()
        own_recipe = native.preprocessing(path)
        preprocessing = own_recipe or preprocessing or said.preprocessing
        assumptions: list[str] = []
        if isinstance(tensors, readers.Described) and tensors.network is not None and not by_names:
            sought = keras_models.Wanted(arch, fields, record is not None, candidates, prefix, head)
            tensors, by_file = keras_models.take(tensors, sought, str(path), name)
            fields, candidates, prefix = {**fields, **by_file}, ("native",), None
            if head and preprocessing and tensors.image_size:
                preprocessing = preprocessing.with_image_size(tensors.image_size)
        elif head:
            text = "does not say what follows the network (head='file'): it is no whole Keras model"
            raise TransferError(f"{path} {text}")
        usable = record is None or record.num_classes > 0
        own: dict[str, Any] = dict(num_classes=num_classes, new_classifier=new_classifier, by_names=by_names, seed=seed)
        own |= dict(preprocessing=preprocessing, usable_classifier=usable, file=str(path), name=name, prefix=prefix)
        is_named = claims.architecture(said.network) == arch
        own |= dict(in_channels=in_channels, assumptions=assumptions)
        own |= dict(said=registry.defaults(arch) if is_named else {*chosen, *of_file})
        model = from_tensors(arch, tensors, candidates, **own, **fields)
        others = claims.other_fields(path, of_file, arch, fields, chosen, name) if record else ()
        for problem in chain(claims.problems(path, tensors, said, arch, preprocessing, name), others):
            if not by_names:
                raise TransferError(f"{problem}; by_names=True (convert: --by_names) takes the weights by their names")
            logging.warning("%s (loaded by its names, which fit)", problem)
        of_graph = getattr(tensors, "preprocessing", None)
        preprocessing, of_file_alone = preprocessing or of_graph, own_recipe or said.preprocessing or of_graph
        images = assumed.of_images(of_file_alone, record.name if record else None, said.unlike)
        assumptions = [*getattr(tensors, "assumed", ()), *images, *assumptions]
        if not is_published:
            assumed.log(assumptions, path, name)
        label_names = () if getattr(model, "renewed", ()) else said.label_names
    of_images = getattr(model, "in_channels", channels.of_model(arch, fields))
    preprocessing = channels.recipe(preprocessing or said.preprocessing, of_images)
    is_labelled = len(label_names) == getattr(model, "num_classes", 0)
    # plain attributes are static in NNX: part of the graph definition, not of the state
    origin = dict(record=record, weights_sha256=sha256, preprocessing=preprocessing, in_channels=of_images)
    origin |= dict(revision=place.revision if place else None, label_names=label_names if is_labelled else ())
    origin |= dict(fields=tuple(by_file.items()))
    for attribute, value in origin.items():
        setattr(model, attribute, value)
    return model


def _check_choices(weights: object, in_channels: int | None, head: str | None, among_tensors: bool) -> None:
    """Raises UsageError for a choice that there cannot be, or not of random weights."""
    if in_channels is not None and in_channels < 1:
        raise UsageError(f"in_channels={in_channels} must be at least 1")
    if head not in (None, keras_models.FILE) or (head and weights is False):
        raise UsageError(f"head={head!r}: only the head of a file is one to take, head='file'")
    if among_tensors and weights is False:
        raise UsageError("key=, prefix= and ema= choose among the tensors of a file; random weights have none")


class _Network(NamedTuple):
    """What a model's name and `weights` stand for; `place` is of weights from a Hub or in a folder."""

    record: Record | None
    arch: str
    place: hub.Place | None


def _network(name: str, weights: str | os.PathLike[str] | bool | None) -> _Network:
    record, architectures = catalogue.find(name), registry.architectures()
    if record or name in architectures:
        return _Network(record, record.arch if record else name, hub.find(weights))
    place = hub.find(name)
    if place is None:
        raise UsageError(f"unknown model {name!r}{catalogue.meant(name, architectures)}{hub.meant(name)}")
    if weights is not None and not isinstance(weights, bool):
        raise UsageError(f"{name} has weights of its own; leave {weights} out, or name the architecture for it")
    network = beside.read(place.file).network
    arch = claims.architecture(network)
    if arch is None and network:
        nearest = (similar(network, architectures) or [USUAL_ARCH])[0]
        text = f"{name} is a {printable(network, 200)}, which is not here; the nearest is {nearest}"
        raise TransferError(f"{text}, whose tensors have other names or shapes")
    if arch is None:
        raise TransferError(
            f"{name}: no {beside.CONFIG} names its network; name an architecture, and this as its weights"
        )
    return _Network(None, arch, place)


def architecture(name: str, weights: Any, fields: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The architecture and all fields that build the model `name` with `fields`, those that its file says included."""
    record, arch, place = _network(name, weights)
    path = place.file if place else weights
    if record or path is None or isinstance(path, bool):
        return catalogue.architecture(name, fields)
    return arch, {**beside.read(Path(path)).fields, **native.fields(path, arch), **fields}


def _file(
    name: str, record: Record | None, weights: str | os.PathLike[str] | bool | None, without_classifier: bool
) -> tuple[Path, str, bool]:
    """The weight file, its SHA-256, and whether it is the record's own, of which all is known."""
    if weights is None or isinstance(weights, bool):
        if record is not None:
            return *cache.fetch(record, notop=without_classifier), True
        raise UsageError(
            f"{name} has no weights of its own; {_choice(name)}take a weight file or random weights, "
            "--config.model.weights=FILE or --config.model.weights=random"
        )
    path = Path(paths.expand(weights))
    if not path.is_file():
        raise TransferError(f"{path}: no such weight file")
    digests = cache.digests(path)
    digest.check_sidecar(path, digests["sha256"])
    records = catalogue.records().values()
    owners = [other for other in records if any(cache.mismatch(own, digests) is None for own in other.files)]
    if record and owners and record not in owners:
        text = "%s: by its hash, %s is the file of %s; preprocessing and all else are taken from %s"
        logging.warning(text, name, path, " and ".join(other.name for other in owners), name)
    return path, digests["sha256"], record in owners


def _choice(arch: str) -> str:
    """The records of an architecture, and which of them classified best where it was trained."""
    names = catalogue.names(f"{arch}.*")
    if not names:
        return ""
    best = max(map(catalogue.get, names), key=lambda record: record.acc1 or 0)
    top = f" ({best.name} is right on the most images of {best.dataset}, {best.acc1} %)" if best.acc1 else ""
    return f"choose {catalogue.listed(names)}{top}, or "


def _libraries_of(record: Record) -> list[str]:
    """The libraries whose names a file of the record may use, its own first."""
    alike = PYTORCH if record.name_map in PYTORCH else ()
    return [name for name in dict.fromkeys((record.name_map, *alike, "native")) if name in libraries(record.arch)]


def from_tensors(
    arch: str,
    tensors: Mapping[str, np.ndarray],
    candidates: Sequence[str] = (),
    *,
    num_classes: int | None = None,
    new_classifier: bool = False,
    by_names: bool = False,
    in_channels: int | None = None,
    prefix: str | None = None,
    preprocessing: Preprocessing | None = None,
    usable_classifier: bool = True,
    said: Collection[str] = (),
    assumptions: list[str] | None = None,
    seed: int = 0,
    file: str = "the file",
    name: str = "",
    **fields: Any,
) -> nnx.Module:
    """A model of `arch` with `fields`, filled strictly from the tensors of a file (`readers.read`).

    Args:
      candidates: libraries whose names to try (`names.libraries`), all where there are none; the one that most names
        are of is taken.
      num_classes, new_classifier, by_names, in_channels, seed: as in `create_model`.
      prefix: of the names of the network's tensors; None: the one under which all of its backbone lies.
      preprocessing: of the images that the model is given.
      usable_classifier: False: whatever there is of a classifier counts as not being there.
      said: fields that the caller or the file has chosen, so that nothing is assumed of them.
      assumptions: takes a sentence for each thing that the tensors leave open (`transfer.weights.assumed`).
      file, name: what messages call the tensors and the model.

    Raises:
      TransferError: the tensors do not fit; the message says what they look like, or what is missing, unexpected and
        misshapen. Or there is NaN in them.
    """
    name, candidates = name or arch, candidates or libraries(arch)
    headless = num_classes == 0 or (num_classes is None and not usable_classifier)
    model = registry.build(arch, seed=None, **fields, **({"num_classes": 0} if headless else {}))
    shapes = shapes_of(model)
    if isinstance(tensors, OnnxTensors) and not by_names:
        of_graph = tensors.graph.image_shape[-1]
        graph_of = Model(arch, channels.fields(arch, fields, of_graph), channels.recipe(preprocessing, of_graph))
        tensors, candidates = follow(tensors, graph_of, candidates, shapes, file, name), ("native",)
    maps = [name_map(arch, library, shapes) for library in candidates]
    place = spellings.find(tensors, maps, shapes, prefix, file)
    names = spellings.with_last_layer(place.names, place.tensors)
    classes = 0 if headless else shapes[CLASSIFIER_BIAS][0]
    in_file = 0 if headless or not usable_classifier else _classes_in_file(names, place.tensors)
    wanted = next(number for number in (num_classes, in_file, classes) if number is not None)
    of_file = channels.of_file(arch, names, place.tensors, shapes) or channels.of_model(arch, fields)
    if wanted != classes or of_file != channels.of_model(arch, fields):
        fields = channels.fields(arch, fields, of_file)
        model = registry.build(arch, seed=None, **fields, num_classes=wanted)
        shapes = shapes_of(model)
        names = names.only(shapes)
    renewed: list[str] = []
    if wanted and (num_classes or (new_classifier and in_file)):
        renewed = _renewed(names, place.tensors, shapes, new_classifier, usable_classifier)
    arrays, report = fit(place.tensors, shapes, names, renewed)
    body_fits = not report.fits and place.fits(shapes)
    advice = BUT_THE_CLASSIFIER if body_fits else "" if report.missing or report.misshapen else NO_PART
    require_fit(report, file, name, names.library, lambda: identify.other_than(arch, candidates, tensors), advice)
    require_numbers(arrays, names, file, name)
    place.log(file, name)
    if assumptions is not None:
        assumptions += assumed.of_network(arch, names.library, shapes, fields, said)
        last = names.sources.get(CLASSIFIER_BIAS)
        if last and not renewed and last != place.names.sources[CLASSIFIER_BIAS]:
            assumptions.append(f"{last.name} is of a linear layer with only dropout before it")
    if in_file == 0 and num_classes is None:
        logging.info("%s: %s has no classifier, so the model has none (num_classes=0)", name, file)
    if renewed:
        instead = "" if wanted == in_file else f" instead of {'another' if in_file is None else in_file}"
        text = "%s: a new classifier for %d classes%s, which starts with random weights (%s)"
        logging.info(text, name, wanted, instead, ", ".join(renewed))
        random = registry.flat_state(registry.build(arch, seed=seed, **fields, num_classes=wanted))
        arrays |= {path: np.asarray(random[path]) for path in renewed}
    of_images = of_file if in_channels is None else in_channels
    if of_images != of_file:
        kernel = channels.first_kernel(arch)
        arrays[kernel] = channels.adapted(arrays[kernel], of_images)
        model = registry.build(arch, seed=None, **channels.fields(arch, fields, of_images), num_classes=wanted)
    channels.log(arch, of_file, in_channels, name, file)
    registry.load_flat_state(model, {path: jnp.asarray(array, jnp.float32) for path, array in arrays.items()})
    for attribute, value in (("renewed", tuple(renewed)), ("in_channels", of_images)):
        setattr(model, attribute, value)
    return model


def _classes_in_file(names: NameMap, tensors: Mapping[str, np.ndarray]) -> int | None:
    """Size of the classifier in the file; 0 if the file has nothing of one, None if it has another one or a part."""
    bias = names.sources[CLASSIFIER_BIAS].name
    if bias in tensors and tensors[bias].ndim == 1:
        return len(tensors[bias])
    return None if any(map(names.in_classifier, tensors)) else 0


def _renewed(
    names: NameMap, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Shape], is_new: bool, is_usable: bool
) -> list[str]:
    """The arrays of a classifier that the file cannot fill: the last layer, or all where a hidden one is not ours."""
    arrays, report = fit(tensors, shapes, names)
    classifier = [path for path in shapes if names.fills_classifier(path)]
    last = [path for path in classifier if path.startswith(CLASSIFIER_LAYER)]
    if not is_usable or any(path not in arrays for path in classifier if path not in last):
        return classifier
    is_other = any(path not in arrays for path in last) or any(map(names.in_classifier, report.unexpected))
    return last if is_new or is_other else []


def convert_file(source: str | os.PathLike[str], name: str, output: str | os.PathLike[str], **choices: Any) -> int:
    """Loads `source` into the model `name` as `create_model` does, and writes its arrays as a native file, atomically.

    `choices` are `by_names`, `key`, `prefix` and `ema` of `create_model`.

    The metadata of `output` say the model, the architecture, its fields and the source. Returns how many arrays were
    written.
    """
    model: Any = create_model(name, weights=source, **choices)
    arrays = registry.flat_state(model)
    num_classes = len(arrays[CLASSIFIER_BIAS]) if CLASSIFIER_BIAS in arrays else 0
    own = {**dict(getattr(model, "fields", ())), "num_classes": num_classes}
    arch, fields = architecture(name, source, own)
    fields = channels.fields(arch, fields, model.in_channels)
    origin = dict(model=name, source=Path(source).name, source_sha256=str(getattr(model, "weights_sha256", "")))
    native.write(output, arrays, native.describe(arch, fields, getattr(model, "preprocessing", None), **origin))
    return len(arrays)
