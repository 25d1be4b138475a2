"""Which networks, batches and dtypes the flags of a benchmark mean, and those networks, built without a download."""

import argparse
import dataclasses
import fnmatch
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from transfer.errors import UsageError
from transfer.experiment.backbone import CLASSIFIER_TAPS
from transfer.extract.extractor import DTYPES, Extractor, resolve_preprocessing
from transfer.extract.program import PRECISIONS
from transfer.extract.taps import parse_taps
from transfer.models import registry
from transfer.models.graph.trace import Graph, trace
from transfer.models.layers import IMAGENET_DEVIATION, IMAGENET_MEAN
from transfer.preprocess.recipe import Preprocessing
from transfer.weights import cache, catalogue
from transfer.weights.create import create_model
from transfer.weights.named_graph import IMAGES, USUAL_IMAGE

WILDCARDS = set("*?[")
DEFAULT_BATCH = "1,8"
RANDOM = "random"
# Batch norm and biases are uniform between these: no layer may be left out, and the deepest networks stay finite.
RANGES = {"scale": (0.3, 0.8), "bias": (-0.2, 0.2), "mean": (-0.2, 0.2), "var": (0.5, 1.5)}


class Case(NamedTuple):
    """The network, batch size and dtype of a row."""

    model: str
    batch: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.model}, batch {self.batch}, {self.dtype}"


def cases_of(options: argparse.Namespace, default_batch: str = DEFAULT_BATCH) -> list[Case]:
    """Every combination that the flags ask for, model by model, dtype by dtype.

    Raises UsageError for what is unknown in --models, --batch, --dtype or --precision.
    """
    batch = options.batch or default_batch
    batches, dtypes = words("batch", batch), chosen("dtype", options.dtype, DTYPES)
    if not all(part.isdecimal() and int(part) for part in batches):
        raise UsageError(f"--batch={batch!r} should be whole numbers of at least 1, separated by commas")
    if options.precision not in PRECISIONS:
        raise UsageError(f"--precision={options.precision} is not one of {', '.join(PRECISIONS)}")
    models = matching(options.models)
    return [Case(model, int(size), dtype) for model in models for dtype in dtypes for size in batches]


def matching(models: str) -> list[str]:
    """The names that comma separated names and wildcards stand for, in their order, each once.

    A wildcard with a dot in it goes through the catalogue (`resnet*.tv1`), one without through the architectures
    (`resnet*`): weights do not change the speed, so that it would only say the same thing several times over.

    Raises UsageError for one that stands for nothing.
    """
    names: dict[str, None] = {}
    for text in words("models", models):
        architectures = registry.architectures()
        if WILDCARDS & set(text):
            known = fnmatch.filter(catalogue.names() if "." in text else sorted(architectures), text)
        else:
            known = [text] if catalogue.find(text) is not None or text in architectures else []
        if not known:
            raise UsageError(f"--models: nothing is called {text!r}{catalogue.meant(text, architectures)}")
        names |= dict.fromkeys(known)
    return list(names)


def words(flag: str, text: str) -> list[str]:
    """The words that commas separate, each once; UsageError if one is empty."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"--{flag}={text!r} should be one or several, separated by commas")
    return list(dict.fromkeys(parts))


def chosen(flag: str, text: str, known: Collection[str]) -> list[str]:
    """The known names that comma separated names and wildcards stand for, upper or lower case, each once.

    Raises UsageError for one that stands for nothing.
    """
    names: dict[str, None] = {}
    for pattern in words(flag, text):
        meant = [name for name in known if fnmatch.fnmatchcase(name.lower(), pattern.lower())]
        if not meant:
            raise UsageError(f"--{flag}: nothing is called {pattern!r}; known are {', '.join(known)}")
        names |= dict.fromkeys(meant)
    return list(names)


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """A network to build: hashable.

    Attributes:
      model: a catalogue name or an architecture.
      weights: None: the catalogue's file where it is on this machine, else random; "random"; or a path.
      tap: end points, comma separated; without a classifier among them none is built, and VGG takes any image size.
      image_size: pixels, square; None: the record's, or the usual one of the architecture.
      seed: of random weights.
    """

    model: str
    weights: str | None = None
    tap: str = "pre_logits"
    image_size: int | None = None
    seed: int = 0

    @classmethod
    def of(cls, model: str, options: argparse.Namespace) -> "NetworkSpec":
        """A model as the flags of a benchmark have it."""
        return cls(model, options.weights, options.tap, options.image_size, options.seed)


@dataclasses.dataclass(frozen=True)
class Network:
    """A model that is ready for an extractor: `fields` built it of its architecture, `weights` names what is in it."""

    model: nnx.Module
    arch: str
    fields: Mapping[str, Any]
    preprocessing: Preprocessing
    weights: str = RANDOM
    notes: tuple[str, ...] = ()

    def extractor(self, tap: str | tuple[str, ...], **settings: Any) -> Extractor:
        """An extractor of the network, with its preprocessing."""
        return Extractor(self.model, tap, preprocessing=self.preprocessing, **settings)

    def graph(self, taps: tuple[str, ...] | None = None) -> Graph:
        """The graph for one image; up to end points, or to all of them."""
        height, width = self.preprocessing.image_size
        channels = 1 if self.preprocessing.channels == "grey" else 3
        return trace(self.model, (1, height, width, channels), taps_wanted=taps)


def load(spec: NetworkSpec) -> Network:
    """Builds and fills the network. Raises what `create_model` raises."""
    record = catalogue.find(spec.model)
    notes: tuple[str, ...] = ()
    headless = not any(tap.endpoint.startswith(CLASSIFIER_TAPS) for tap in parse_taps(spec.tap))
    arch, fields = catalogue.architecture(spec.model, {"num_classes": 0} if headless else {})
    path = None
    if spec.weights is None and record is not None:
        path = cache.local_path(record.notop if record.notop and headless else record.file)
        if not path.is_file():
            fetch = f"python -m transfer weights fetch {record.name}"
            path, notes = None, (f"random weights: {path} is not on this machine; `{fetch}`",)
    elif spec.weights not in (None, RANDOM):
        path = Path(spec.weights).expanduser()
    if path is None:
        model = random_model(arch, fields, spec.seed)
    else:
        model = create_model(spec.model, path, num_classes=0 if headless else None)
    preprocessing = getattr(model, "preprocessing", None) or (
        record.preprocessing if record else _usual_preprocessing(arch)
    )
    weights = RANDOM if path is None else path.name
    return Network(model, arch, fields, resolve_preprocessing(model, preprocessing, spec.image_size), weights, notes)


def _usual_preprocessing(arch: str) -> Preprocessing:
    """torchvision's, for an architecture by itself, whose record would say it."""
    height, width, channels = IMAGES.get(arch, USUAL_IMAGE)
    if channels == 1:
        return Preprocessing((height, width), channels="grey", scale=1 / 255, mean=(0.0,), std=(1.0,))
    return Preprocessing((height, width), scale=1 / 255, mean=IMAGENET_MEAN, std=IMAGENET_DEVIATION)


def random_model(arch: str, fields: Mapping[str, Any], seed: int) -> nnx.Module:
    """A model with He-uniform kernels (arXiv:1502.01852), and batch norm and biases far from ones and zeros."""
    model = registry.build(arch, seed=None, **fields)
    generator = np.random.default_rng(seed)
    arrays = {}
    for path, array in registry.flat_state(model).items():
        he = math.sqrt(6 / math.prod(array.shape[:-1]))
        low, high = RANGES.get(path.rpartition(".")[2], (-he, he))
        arrays[path] = jnp.asarray(generator.random(array.shape, np.float32) * np.float32(high - low) + np.float32(low))
    registry.load_flat_state(model, arrays)
    return model
