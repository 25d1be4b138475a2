"""`create_model`: a backbone by name, with its pretrained weights in it; and `convert_file`, which writes them."""

import os
from pathlib import Path
from typing import Any

from absl import logging
from flax import nnx

from transfer.errors import TransferError
from transfer.models import registry
from transfer.runtime.progress import waiting
from transfer.weights import (
    assumed,
    beside,
    catalogue,
    channels,
    claims,
    hub,
    keras_models,
    locate,
    native,
    readers,
    recipes,
)
from transfer.weights.asked import Asked, Told
from transfer.weights.beside import Beside
from transfer.weights.fill import Network, fill


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
      beside the file or a file of ours has them, else empty), `arch` and `fields` (what `registry.build` makes such a
      network of).

    Raises:
      UsageError: unknown name or field; an architecture without `weights`; a choice among tensors of no file.
      TransferError: no file, a damaged one, one with NaN or without floats in it, one of another architecture (the
        message says what it looks like, or lists what does not fit), one that says that it is another function.
    """
    record, arch, place = locate.network(name, weights)
    in_channels = fields.get(channels.FIELD) if in_channels is None else in_channels
    fields |= {} if in_channels is None else {channels.FIELD: in_channels}
    choices: dict[str, Any] = dict(num_classes=num_classes, new_classifier=new_classifier, by_names=by_names, seed=seed)
    choices |= dict(key=key, prefix=prefix, ema=ema, in_channels=in_channels, head=head)
    asked = Asked(name, arch, record, fields, **choices)
    asked.check(is_random=weights is False)
    told = _told(asked, weights, place)
    network = _filled(asked, told) if told.sha256 else _random(asked, told)
    model: Any = network.model
    # plain attributes are static in NNX: part of the graph definition, not of the state
    model.record, model.weights_sha256, model.revision = record, told.sha256, place.revision if place else None
    model.in_channels, model.preprocessing = network.channels, channels.recipe(told.preprocessing, network.channels)
    is_labelled = told.sha256 and not network.renewed and len(told.beside.label_names) == network.classes
    model.renewed, model.label_names = tuple(network.renewed), told.beside.label_names if is_labelled else ()
    model.arch, model.fields = arch, network.built_with
    return model


def _told(asked: Asked, weights: locate.Weights, place: hub.Place | None) -> Told:
    """What a file and the texts beside it tell; of what the record says too, only our own files know better.

    Of random weights, what is said beside the file in a folder or on a Hub.
    """
    record = asked.record
    preprocessing = record.preprocessing if record else None
    if weights is False:
        said = beside.read(place.file) if place else Beside(Path())
        fields = {**said.fields, **asked.fields}
        return Told(beside=said, fields=fields, preprocessing=preprocessing or said.preprocessing)
    file, sha256, is_published = locate.file(asked, place.file if place else weights)
    claims.look_at_name(file, asked.arch, asked.name)
    said = beside.read(file)
    written = {**said.fields, **native.fields(file, asked.arch)}
    fields = asked.fields if record else {**written, **asked.fields}
    fields.pop("num_classes", None)
    preprocessing = native.preprocessing(file) or preprocessing or said.preprocessing
    with waiting(f"reading {file}"):
        tensors = readers.read(file, asked.key, asked.ema)
    prefix = asked.prefix
    if prefix is None and record and any(name.startswith(f"{record.prefix}.") for name in tensors):
        prefix = record.prefix
    return Told(file, sha256, is_published, tensors, said, written, fields, asked.libraries, prefix, preprocessing)


def _random(asked: Asked, told: Told) -> Network:
    """The network with random weights."""
    wanted = (asked.record or told.beside).num_classes if asked.num_classes is None else asked.num_classes
    return Network.of(asked.arch, {**told.fields, **({} if wanted is None else {"num_classes": wanted})}, asked.seed)


def _filled(asked: Asked, told: Told) -> Network:
    """The network with the weights of a file, that is no other than the one asked for as far as the file says."""
    if told.tensors.network is not None and not asked.by_names:
        keras_models.take(asked, told)
        if asked.takes_head and told.preprocessing and told.tensors.image_size:
            told.preprocessing = told.preprocessing.with_image_size(told.tensors.image_size)
    elif asked.takes_head:
        text = "does not say what follows the network (head='file'): it is no whole Keras model"
        raise TransferError(f"{told.file} {text}")
    network = fill(asked, told)
    recipes.take_up(told, asked.arch)
    for problem in claims.problems(asked, told):
        if not asked.by_names:
            raise TransferError(f"{problem}; by_names=True (convert: --by_names) takes the weights by their names")
        logging.warning("%s (loaded by its names, which fit)", problem)
    told.preprocessing = told.preprocessing or told.tensors.preprocessing
    if not told.is_published:
        assumed.log(asked, told)
    return network


def convert_file(source: str | os.PathLike[str], name: str, output: str | os.PathLike[str], **choices: Any) -> int:
    """Loads `source` into the model `name` as `create_model` does, and writes its arrays as a native file, atomically.

    `choices` are `by_names`, `key`, `prefix`, `ema` and `head` of `create_model`.

    The metadata of `output` say the model, the architecture, its fields and the source. Returns how many arrays were
    written.
    """
    model: Any = create_model(name, weights=source, **choices)
    arrays = registry.flat_state(model)
    origin = dict(model=name, source=Path(source).name, source_sha256=str(model.weights_sha256))
    native.write(output, arrays, native.describe(model.arch, dict(model.fields), model.preprocessing, **origin))
    return len(arrays)
