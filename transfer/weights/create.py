"""`create_model`: a backbone by name, with its pretrained weights in it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx

from transfer.errors import TransferError, UsageError
from transfer.models import registry
from transfer.preprocess.recipe import Preprocessing
from transfer.runtime.files import digest, paths
from transfer.runtime.progress import waiting
from transfer.weights import cache, catalogue, claims, identify, native, readers
from transfer.weights.catalogue import Record
from transfer.weights.load import fit, require_fit, require_numbers
from transfer.weights.names import NameMap, libraries, name_map
from transfer.weights.onnx.follow import Model, follow
from transfer.weights.readers.onnx_file import OnnxTensors

CLASSIFIER_BIAS = "logits.bias"
CLASSIFIER_LAYER = "logits."
# One layout under two sets of names, so that a record takes files of both.
PYTORCH = ("torchvision", "timm")


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
    seed: int = 0,
    **fields: Any,
) -> nnx.Module:
    """A backbone with weights; call it as `output, endpoints = model(x)`.

    Args:
      name: a catalogue name (`"vgg16.keras"`, see `list_models`) or an architecture (`"vgg16"`).
      weights: None: the record's file, shipped, cached or downloaded. A path: that file, in any format that
        `transfer.weights.readers` knows; for a record in its library's names or our own (torchvision and timm count
        as one), for an architecture in any library's; `PATH.sha256` beside it, if there, must be its SHA-256.
        False: random, from `seed`.
      num_classes: None: as in the file; a file without classifier (Keras' `notop`), or with one that the record calls
        unusable, gives a model without. 0: no classifier, whatever the file has. Another number than the file's: the
        last layer is random, from `seed`.
      new_classifier: the last layer is random even where the file's has as many classes.
      by_names: True: names and shapes that fit are enough, though the file says that it is another function: by its
        graph (ONNX), its `arch`, a `config.json` beside it, the layers of a whole Keras model in front of the first
        weights.
      seed: for random weights.
      fields: of the architecture (`width`, `stride_in_1x1`, …), over the record's.

    Returns:
      The model, with the attributes `record` (`Record`, None for an architecture), `weights_sha256` (of the file,
      None for random weights), `preprocessing` (that a file of ours was written with, else the record's, else None)
      and `renewed` (paths of the arrays that are random beside those of the file: a new classifier).

    Raises:
      UsageError: unknown name or field; an architecture without `weights`.
      TransferError: no file, a damaged one, one with NaN or without floats in it, one of another architecture (the
        message says what it looks like, or lists what does not fit), one that says that it is another function.
    """
    record = _find(name)
    arch = record.arch if record else name
    chosen, fields = fields, {**dict(record.fields if record else ()), **fields}
    if weights is False:
        default = record.num_classes if record else None
        wanted = default if num_classes is None else num_classes
        classes = {} if wanted is None else {"num_classes": wanted}
        return _annotated(registry.build(arch, seed=seed, **fields, **classes), record)
    path, sha256 = _file(name, record, weights, without_classifier=num_classes == 0)
    if record is None:
        fields = native.fields(path, arch) | fields
    fields.pop("num_classes", None)
    with waiting(f"reading {path}"):
        tensors = readers.read(path)
    preprocessing = native.preprocessing(path) or (record.preprocessing if record else None)
    model = from_tensors(
        arch,
        tensors,
        _libraries_of(record) if record else (),
        num_classes=num_classes,
        new_classifier=new_classifier,
        by_names=by_names,
        preprocessing=preprocessing,
        usable_classifier=record is None or record.num_classes > 0,
        seed=seed,
        file=str(path),
        name=name,
        **fields,
    )
    claims.compare(path, tensors, arch, preprocessing, name=name, by_names=by_names)
    if record:
        claims.compare_fields(path, arch, fields, chosen, name=name, by_names=by_names)
    return _annotated(model, record, sha256, preprocessing)


def _find(name: str) -> Record | None:
    """The record of a catalogue name, None for an architecture."""
    record = catalogue.find(name)
    if record:
        return record
    architectures = registry.architectures()
    if name in architectures:
        return None
    raise UsageError(f"unknown model {name!r}; {catalogue.meant(name, architectures)}")


def _file(
    name: str, record: Record | None, weights: str | os.PathLike[str] | bool | None, without_classifier: bool
) -> tuple[Path, str]:
    if weights is None or isinstance(weights, bool):
        if record is None:
            raise UsageError(
                f"{name} has no weights of its own; {_choice(name)}take a weight file or random weights, "
                "--config.model.weights=FILE or --config.model.weights=random"
            )
        return cache.fetch(record, notop=without_classifier)
    path = Path(paths.expand(weights))
    if not path.is_file():
        raise TransferError(f"{path}: no such weight file")
    found = cache.digests(path)
    digest.check_sidecar(path, found["sha256"])
    owners = [other for other in catalogue.records().values() if cache.is_file_of(other, found)]
    if record and owners and record not in owners:
        text = "%s: by its hash, %s is the file of %s; preprocessing and all else are taken from %s"
        logging.warning(text, name, path, " and ".join(other.name for other in owners), name)
    return path, found["sha256"]


def _choice(arch: str) -> str:
    """The records of an architecture, and which of them classified best where it was trained."""
    found = catalogue.names(f"{arch}.*")
    if not found:
        return ""
    best = max(map(catalogue.get, found), key=lambda record: record.acc1 or 0)
    top = f" ({best.name} is right on the most images of {best.dataset}, {best.acc1} %)" if best.acc1 else ""
    return f"choose {', '.join(found)}{top}, or "


def _libraries_of(record: Record) -> list[str]:
    """The libraries whose names a file of the record may use, its own first."""
    alike = PYTORCH if record.name_map in PYTORCH else ()
    candidates = dict.fromkeys((record.name_map, *alike, "native"))
    return [library for library in candidates if library in libraries(record.arch)]


def _shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    return {path: array.shape for path, array in registry.flat_state(model).items()}


def _best_map(
    arch: str, candidates: Sequence[str], shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, np.ndarray]
) -> NameMap:
    """The library whose names the file has the most of; the first candidate if it has none of any."""
    maps = [name_map(arch, library, shapes) for library in dict.fromkeys(candidates)]

    def known(names: NameMap) -> int:
        renamed = names.rename(tensors)
        return sum(source.name in renamed for source in names.sources.values())

    return max(maps, key=known)


def from_tensors(
    arch: str,
    tensors: Mapping[str, np.ndarray],
    candidates: Sequence[str] = (),
    *,
    num_classes: int | None = None,
    new_classifier: bool = False,
    by_names: bool = False,
    preprocessing: Preprocessing | None = None,
    usable_classifier: bool = True,
    seed: int = 0,
    file: str = "the file",
    name: str = "",
    **fields: Any,
) -> nnx.Module:
    """A model filled strictly from the tensors of a file.

    Args:
      arch: architecture, with `fields` (without `num_classes`).
      tensors: as `readers.read` gives them.
      candidates: libraries whose names to try (`names.libraries`); the one that most names are of is taken.
        Empty: all.
      num_classes, new_classifier, by_names, seed: as in `create_model`.
      preprocessing: of the images that the model is given.
      usable_classifier: False: whatever there is of a classifier counts as not being there.
      file, name: what messages call the tensors and the model.

    Raises:
      TransferError: the tensors do not fit; the message says what they look like, or what is missing, unexpected and
        misshapen. Or there is NaN in them.
    """
    name = name or arch
    candidates = candidates or libraries(arch)
    headless = num_classes == 0 or (num_classes is None and not usable_classifier)
    model = registry.build(arch, seed=None, **fields, **({"num_classes": 0} if headless else {}))
    shapes = _shapes(model)
    if isinstance(tensors, OnnxTensors) and not by_names:
        graph_of = Model(arch, fields, preprocessing)
        tensors, candidates = follow(tensors, graph_of, candidates, shapes, file, name), ("native",)
    names = _best_map(arch, candidates, shapes, tensors)
    renamed = names.rename(tensors)
    classes = 0 if headless else shapes[CLASSIFIER_BIAS][0]
    in_file = 0 if headless or not usable_classifier else _classes_in_file(names, renamed, classes)
    wanted = in_file if num_classes is None else num_classes
    if wanted != classes:
        model = registry.build(arch, seed=None, **fields, num_classes=wanted)
        shapes = _shapes(model)
        names = name_map(arch, names.library, shapes)
    renews = wanted != 0 and (new_classifier or wanted != in_file)
    left_out = _to_renew(shapes, names, in_file) if renews else []
    arrays, report = fit(renamed, shapes, names, left_out)
    require_fit(report, file, name, names.library, lambda: identify.other_than(arch, candidates, tensors))
    require_numbers(arrays, names, file, name)
    if in_file == 0 and num_classes is None:
        logging.info("%s: %s has no classifier, so the model has none (num_classes=0)", name, file)
    dropped = [n for n in report.excused if names.in_classifier(n)]
    if dropped:
        logging.info("%s: the classifier is left out: %s", name, ", ".join(dropped))
    if left_out:
        why = (
            f"{wanted} classes instead of {in_file}" if wanted != in_file else f"a new classifier for {wanted} classes"
        )
        logging.info("%s: %s, so %s are random", name, why, ", ".join(left_out))
        fresh = registry.flat_state(registry.build(arch, seed=seed, **fields, num_classes=wanted))
        arrays |= {path: np.asarray(fresh[path]) for path in left_out}
    registry.load_flat_state(model, {path: jnp.asarray(array, jnp.float32) for path, array in arrays.items()})
    setattr(model, "renewed", tuple(left_out))  # noqa: B010
    return model


def _to_renew(shapes: Mapping[str, tuple[int, ...]], names: NameMap, in_file: int) -> list[str]:
    """Paths left random where the classes are others than the file's: its last layer, or all of one it lacks."""
    if in_file:
        return [path for path in shapes if path.startswith(CLASSIFIER_LAYER)]
    return [path for path in shapes if names.in_classifier(names.sources[path].name)]


def _classes_in_file(names: NameMap, tensors: Mapping[str, np.ndarray], default: int) -> int:
    """Size of the classifier in the file; 0 if the file has nothing of a classifier.

    `default` for a file with a part of one only: what it lacks is then listed as missing.
    """
    bias = names.sources[CLASSIFIER_BIAS].name
    if bias in tensors and tensors[bias].ndim == 1:
        return len(tensors[bias])
    return default if any(map(names.in_classifier, tensors)) else 0


def _annotated(
    model: nnx.Module, record: Record | None, sha256: str | None = None, own: Preprocessing | None = None
) -> nnx.Module:
    # plain attributes are static in NNX: part of the graph definition, not of the state
    preprocessing = own or (record.preprocessing if record else None)
    for name, value in (("record", record), ("weights_sha256", sha256), ("preprocessing", preprocessing)):
        setattr(model, name, value)
    return model
