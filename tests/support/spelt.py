"""A small ResNet as checkpoints of other people's programs spell it."""

import functools
from collections.abc import Mapping

import numpy as np
from golden import reading
from support.filled import from_tensors

from transfer.models import registry
from transfer.weights.maps import RESNET_CHILDREN

WIDTH = 1 / 16
Tensors = Mapping[str, np.ndarray]


def resnet() -> dict[str, np.ndarray]:
    return reading.cases()["resnet18_slim"].state_dict()


def body(tensors: Tensors) -> dict[str, np.ndarray]:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}


def under(prefix: str, tensors: Tensors) -> dict[str, np.ndarray]:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def other(tensors: Tensors) -> dict[str, np.ndarray]:
    """A network of the same sizes with other weights."""
    return {name: tensor + np.ones((), tensor.dtype) for name, tensor in tensors.items()}


def numbered(tensors: Tensors, children: tuple[str, ...] = RESNET_CHILDREN) -> dict[str, np.ndarray]:
    """As an `nn.Sequential` of a module's children has them."""
    parts = {name: name.split(".", 1) for name in tensors}
    return {f"{children.index(child)}.{rest}": tensors[name] for name, (child, rest) in parts.items()}


def layers(prefix: str, *sizes: int) -> dict[str, np.ndarray]:
    """`Linear, ReLU, Linear, …` in an `nn.Sequential`."""
    pairs = enumerate(zip(sizes[:-1], sizes[1:], strict=True))
    kernels = {f"{prefix}{2 * i}.weight": np.ones((outputs, inputs), np.float32) for i, (inputs, outputs) in pairs}
    return kernels | {name.replace("weight", "bias"): np.ones(len(k), np.float32) for name, k in kernels.items()}


def arrays(tensors: Tensors, arch: str = "resnet18", **options: object) -> dict[str, np.ndarray]:
    options = {"width": WIDTH, **options}
    return {p: np.asarray(a) for p, a in registry.flat_state(from_tensors(arch, tensors, file="x", **options)).items()}


@functools.cache
def plain() -> dict[str, np.ndarray]:
    """The arrays of the file under its own names."""
    return arrays(resnet())


def assert_read(tensors: Tensors, classifier: bool = True, **options: object) -> None:
    """Every array is that of the plain file, the classifier's as well or none of it."""
    expected, found = plain(), arrays(tensors, **options)
    assert found.keys() == {path for path in expected if classifier or not path.startswith("logits.")}
    for path, array in found.items():
        np.testing.assert_array_equal(array, expected[path], err_msg=path)
