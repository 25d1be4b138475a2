"""Name maps: for each of a model's arrays the tensor of the file that fills it, and how it is converted.

Derived from the model's own dotted paths, so that every depth and width of a family has one rule.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from flax import nnx

from transfer.models import registry
from transfer.weights.maps import Names, family

Shape = tuple[int, ...]

# PyTorch's batch norm counts its steps.
COUNTERS = ".num_batches_tracked"
CLASSIFIER_LAYER = "logits."


def from_torch(tensor: np.ndarray, shape: Shape, cells: int = 1) -> np.ndarray:
    """A kernel (out, in, height, width) or (out, in) in our layout, anything else as it is.

    Args:
      cells: more than 1 where a dense kernel's inputs are a feature map of so many cells, flattened channels first.
    """
    if tensor.ndim < 2:
        return tensor
    if tensor.ndim == 2:
        outputs, inputs = tensor.shape
        if inputs % cells:
            return tensor.T
        tensor = tensor.reshape(outputs, inputs // cells, cells, 1)
    kernel = tensor.transpose(2, 3, 1, 0)  # OIHW -> HWIO
    return kernel.reshape(-1, kernel.shape[-1]) if len(shape) == 2 else kernel


def from_keras(tensor: np.ndarray, shape: Shape) -> np.ndarray:
    """A kernel of one convolution a channel, (height, width, channels, multiplier), in our layout; others as they are.

    Ours is a convolution in as many groups as channels, (height, width, 1, channels * multiplier) in the same order.
    """
    if tensor.ndim == len(shape) == 4 and shape[2] == 1:
        height, width, channels, multiplier = tensor.shape
        if (height, width, channels * multiplier) == (*shape[:2], shape[3]):
            return tensor.reshape(shape)
    return tensor


class Scheme(NamedTuple):
    """How a library writes a layer's variables (ours -> theirs; `shift` is a batch norm's bias), and their layout."""

    separator: str
    variables: Mapping[str, str]
    convert: Callable[..., np.ndarray]


TORCH = Scheme(
    ".",
    dict(kernel="weight", bias="bias", scale="weight", shift="bias", mean="running_mean", var="running_var"),
    from_torch,
)
KERAS = Scheme(
    "/",
    dict(kernel="kernel", bias="bias", scale="gamma", shift="beta", mean="moving_mean", var="moving_variance"),
    from_keras,
)
# One layout under several sets of names, so that a record takes files of all.
PYTORCH = ("torchvision", "timm", "transformers")
SCHEMES = {**dict.fromkeys(PYTORCH, TORCH), "keras": KERAS}


class Source(NamedTuple):
    """The source of one array of a model.

    Attributes:
      name: of the tensor in the file; several arrays may be parts of one.
      convert: makes the array of the tensor and the array's shape; the result has another one if it does not fit.
    """

    name: str
    convert: Callable[[np.ndarray, Shape], np.ndarray] = lambda tensor, shape: tensor


class NameMap(NamedTuple):
    """Our paths -> sources in files of one library, whose `row` says which tensors of a file may be left over."""

    library: str
    sources: Mapping[str, Source]
    row: Names

    def in_classifier(self, name: str) -> bool:
        """Whether the file's tensor `name` belongs to the classifier."""
        return name.startswith(self.row.classifier)

    def fills_classifier(self, path: str) -> bool:
        """Whether our array `path` comes from a tensor of the classifier."""
        return self.in_classifier(self.sources[path].name)

    def is_excused(self, name: str) -> bool:
        """Whether the file's tensor `name` carries nothing for inference."""
        return name.startswith(self.row.excused) or name.endswith(COUNTERS)

    @property
    def backbone(self) -> dict[str, str]:
        """Our paths but for those of the classifier -> the names of their tensors."""
        return {path: source.name for path, source in self.sources.items() if not self.fills_classifier(path)}

    def only(self, paths: Iterable[str]) -> "NameMap":
        """The map of a model that has some of the arrays."""
        return self._replace(sources={path: self.sources[path] for path in paths})

    def spelt(self, respell: Callable[[str], str]) -> "NameMap":
        """The map of a file with other names; `respell` takes those of tensors and the prefixes of `row`."""
        sources = {path: source._replace(name=respell(source.name)) for path, source in self.sources.items()}
        classifier, excused = (tuple(map(respell, prefixes)) for prefixes in (self.row.classifier, self.row.excused))
        return self._replace(sources=sources, row=self.row._replace(classifier=classifier, excused=excused))


def shapes_of(model: nnx.Module) -> dict[str, Shape]:
    """Dotted path -> shape of every array of a model."""
    return {path: array.shape for path, array in registry.flat_state(model).items()}


def libraries(arch: str) -> tuple[str, ...]:
    """The libraries whose files `arch` can be filled from, our own (`native`) first."""
    return ("native", *family(arch).libraries)


def name_map(arch: str, library: str, shapes: Mapping[str, Shape]) -> NameMap:
    """The map from the arrays of a model (dotted path -> shape, see `registry.flat_state`) to `library`'s names."""
    known = family(arch)
    if library == "native":
        return NameMap(library, {path: Source(path) for path in shapes}, Names(classifier=known.classifier))
    row, scheme = known.libraries[library], SCHEMES.get(library, TORCH)
    own: Mapping[str, Source] = row.sources(shapes)
    layers = registry.layers_of(path for path in shapes if path not in own)
    theirs = row.of(layers)
    # a batch norm is told from a convolution by what it has
    normalised = {layer for layer in layers if f"{layer}.scale" in shapes or f"{layer}.mean" in shapes}

    def source(path: str) -> Source:
        layer, _, variable = path.rpartition(".")
        convert = scheme.convert
        if layer in known.flattened and convert is from_torch:
            convert = functools.partial(from_torch, cells=known.flattened[layer])
        variable = "shift" if variable == "bias" and layer in normalised else variable
        return Source(f"{theirs[layer]}{scheme.separator}{scheme.variables[variable]}", convert)

    return NameMap(library, {path: own.get(path) or source(path) for path in shapes}, row)
