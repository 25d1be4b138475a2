"""The network of a row: built, filled and with its preprocessing, without a download."""

import dataclasses
from pathlib import Path

from flax import nnx

from transfer.bench.peers.network import random_model
from transfer.experiment.backbone import CLASSIFIER_TAPS
from transfer.extract.extractor import resolve_preprocessing
from transfer.extract.taps import parse_taps
from transfer.models.graph.trace import Graph, trace
from transfer.preprocess.recipe import Preprocessing
from transfer.weights import cache, catalogue
from transfer.weights.create import create_model
from transfer.weights.named_graph import IMAGES, USUAL_IMAGE

RANDOM = "random"
# Of torchvision; for an architecture by itself, whose record would say it.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What decides over a network: hashable.

    Attributes:
      model: a catalogue name or an architecture.
      weights: None: the catalogue's file where it is on this machine, else random; "random"; or a path.
      tap: end points, comma separated.
      image_size: pixels, square; None: the record's, or the usual one of the architecture.
      seed: of random weights.
    """

    model: str
    weights: str | None
    tap: str
    image_size: int | None
    seed: int

    def has_classifier(self) -> bool:
        """Whether a tap needs the classifier; without it VGG takes images of any size."""
        return any(tap.endpoint.startswith(CLASSIFIER_TAPS) for tap in parse_taps(self.tap))


@dataclasses.dataclass(frozen=True)
class Network:
    """A model that is ready for an extractor; `weights` names what is in it."""

    model: nnx.Module
    preprocessing: Preprocessing
    weights: str
    notes: tuple[str, ...] = ()

    def graph(self, taps: tuple[str, ...] | None = None) -> Graph:
        """For one image; up to end points, or to all of them."""
        height, width = self.preprocessing.image_size
        channels = 1 if self.preprocessing.channels == "grey" else 3
        return trace(self.model, (1, height, width, channels), taps_wanted=taps)


def load(wanted: Wanted) -> Network:
    """Builds and fills it. Raises what `create_model` raises."""
    path, notes = _file(wanted)
    if path is None:
        arch, fields = catalogue.architecture(wanted.model, {})
        if not wanted.has_classifier():
            fields["num_classes"] = 0
        model = random_model(arch, fields, wanted.seed)
    else:
        model = create_model(wanted.model, path, num_classes=None if wanted.has_classifier() else 0)
    own = getattr(model, "preprocessing", None) or _preprocessing(wanted.model)
    return Network(
        model, resolve_preprocessing(model, own, wanted.image_size), RANDOM if path is None else path.name, notes
    )


def _file(wanted: Wanted) -> tuple[Path | None, tuple[str, ...]]:
    """The weight file, None for random weights, and what to say about it."""
    if wanted.weights == RANDOM:
        return None, ()
    if wanted.weights is not None:
        return Path(wanted.weights).expanduser(), ()
    record = catalogue.find(wanted.model)
    if record is None:
        return None, ()
    small = record.notop if record.notop and not wanted.has_classifier() else record.file
    path = cache.local_path(small)
    if path.is_file():
        return path, ()
    return None, (f"random weights: {path} is not on this machine; `python -m transfer weights fetch {record.name}`",)


def _preprocessing(model: str) -> Preprocessing:
    record = catalogue.find(model)
    if record is not None:
        return record.preprocessing
    height, width, channels = IMAGES.get(model, USUAL_IMAGE)
    if channels == 1:
        return Preprocessing((height, width), channels="grey", scale=1 / 255, mean=(0.0,), std=(1.0,))
    return Preprocessing((height, width), scale=1 / 255, mean=MEAN, std=STD)
