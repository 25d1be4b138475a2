"""Name maps: for each of a model's arrays the tensor of the file that fills it, and how its layout changes.

Derived from the model's own dotted paths, so that every depth and width of a family has one rule.
"""

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from types import ModuleType

import numpy as np

from transfer.models import registry

Shape = tuple[int, ...]

# Our variable -> the source's. Batch norm is told from a convolution by what it has: only it has a `scale`.
TORCH_VARIABLES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
KERAS_VARIABLES = {
    "kernel": "kernel",
    "bias": "bias",
    "scale": "gamma",
    "mean": "moving_mean",
    "var": "moving_variance",
}
# PyTorch's batch norm counts its steps.
COUNTERS = ".num_batches_tracked"


@dataclasses.dataclass(frozen=True)
class Source:
    """Where one array of a model comes from.

    Attributes:
      name: of the tensor in the file.
      channels_first: kernels are (out, in, height, width) or (out, in) and must be turned round.
      cells: more than 1 where a dense kernel's inputs are a feature map of so many cells, flattened channels first.
    """

    name: str
    channels_first: bool = False
    cells: int = 1

    def convert(self, tensor: np.ndarray, shape: Shape) -> np.ndarray:
        """`tensor` in our layout; of another shape than `shape` if it does not fit, which the caller checks."""
        if not self.channels_first and _is_depthwise(tensor.shape, shape):
            return tensor.reshape(shape)
        if not self.channels_first or tensor.ndim < 2:
            return tensor
        if tensor.ndim == 2:
            outputs, inputs = tensor.shape
            if inputs % self.cells:
                return tensor.T
            tensor = tensor.reshape(outputs, inputs // self.cells, self.cells, 1)
        kernel = tensor.transpose(2, 3, 1, 0)  # OIHW -> HWIO
        return kernel.reshape(-1, kernel.shape[-1]) if len(shape) == 2 else kernel


def _is_depthwise(theirs: Shape, ours: Shape) -> bool:
    """Whether a kernel is Keras' of one convolution a channel, (height, width, channels, multiplier).

    Ours is a convolution in as many groups as channels, (height, width, 1, channels * multiplier) in the same order.
    """
    if len(theirs) != 4 or len(ours) != 4 or ours[2] != 1:
        return False
    return (*theirs[:2], theirs[2] * theirs[3]) == (*ours[:2], ours[3])


@dataclasses.dataclass(frozen=True)
class NameMap:
    """Our paths -> sources in files of one library, and which tensors of such a file may be left over.

    Attributes:
      classifier: prefixes of the classifier's tensors.
      excused: prefixes of tensors that have no place in our network (auxiliary classifiers).
      rename: a file's tensors by the names of `sources`, where the library's own differ from file to file.
    """

    library: str
    sources: Mapping[str, Source]
    classifier: tuple[str, ...]
    excused: tuple[str, ...] = ()
    rename: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] = lambda tensors: tensors

    def in_classifier(self, name: str) -> bool:
        """Whether the file's tensor `name` belongs to the classifier."""
        return name.startswith(self.classifier)

    def is_excused(self, name: str) -> bool:
        """Whether the file's tensor `name` carries nothing for inference."""
        return name.startswith(self.excused) or name.endswith(COUNTERS)


@functools.cache
def family(arch: str) -> ModuleType:
    """The module with the names of `arch`'s family: of that file name in `maps`, else the model file itself."""
    builder = registry.builder(arch)
    model_file = getattr(builder, "func", builder).__module__
    name = f"transfer.weights.maps.{model_file.rsplit('.', 1)[-1]}"
    return importlib.import_module(name if importlib.util.find_spec(name) else model_file)


def libraries(arch: str) -> tuple[str, ...]:
    """The libraries whose files `arch` can be filled from, our own (`native`) first."""
    return ("native", *getattr(family(arch), "NAMES", {}))


def name_map(arch: str, library: str, shapes: Mapping[str, Shape]) -> NameMap:
    """The map from the arrays of a model (dotted path -> shape, see `registry.flat_state`) to `library`'s names."""
    module = family(arch)
    classifier = getattr(module, "CLASSIFIER", {}).get(library, ())
    if library == "native":
        return NameMap(library, {path: Source(path) for path in shapes}, classifier)
    layers = registry.layers_of(shapes)
    theirs = module.NAMES[library](layers)
    normalised = {layer for layer in layers if f"{layer}.scale" in shapes or f"{layer}.mean" in shapes}
    flattened = getattr(module, "FLATTENED", {})

    def source(path: str) -> Source:
        layer, _, variable = path.rpartition(".")
        if library == "keras":
            is_shift = variable == "bias" and layer in normalised
            return Source(f"{theirs[layer]}/{'beta' if is_shift else KERAS_VARIABLES[variable]}")
        return Source(f"{theirs[layer]}.{TORCH_VARIABLES[variable]}", True, flattened.get(layer, 1))

    optional = {
        key: table[library]
        for key, table in (("excused", getattr(module, "EXCUSED", {})), ("rename", getattr(module, "RENAMES", {})))
        if library in table
    }
    return NameMap(library, {path: source(path) for path in shapes}, classifier, **optional)
