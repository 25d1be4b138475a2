"""The graphs of `make_onnx.py` as models that run: filled with seeded numbers, in full width or narrower."""

import functools
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from golden import seeded

ARCHIVE = Path(__file__).parent / "onnx_graphs.zip"
IMAGE_CHANNELS = (1, 3)
# What a weight is, by the operator that takes it and the input that it is; the names are those of `seeded.tensor`.
ROLES = {
    "Conv": ("", "weight", "bias"),
    "Gemm": ("", "weight", "bias"),
    "MatMul": ("", "weight"),
    "BatchNormalization": ("", "weight", "bias", "running_mean", "running_var"),
    "Mul": ("scale", "scale"),
}


@functools.cache
def names() -> tuple[str, ...]:
    """Every graph, as `architecture.exporter`."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        return tuple(name.removesuffix(".onnx") for name in archive.namelist())


def graph(name: str) -> Any:
    """A graph without numbers, as stored."""
    import onnx

    with zipfile.ZipFile(ARCHIVE) as archive:
        return onnx.load_model_from_string(archive.read(f"{name}.onnx"))


def model(name: str, divisor: int = 1) -> Any:
    """A model that runs, every channel count but those of the images and the classes divided."""
    filled = graph(name)
    _flatten_what_there_is(filled)
    roles = {source: (node, role) for node in filled.graph.node for source, role in weights_of(node)}
    last = _classifier(filled, roles)
    for tensor in filled.graph.initializer:
        if _is_empty(tensor):
            node, role = roles.get(tensor.name, (None, "bias"))
            shape = _narrow(tuple(tensor.dims), node, role, divisor, tensor.name in last)
            set_array(tensor, _numbers(f"{name}/{tensor.name}", shape, node, role))
    _show_logits(filled)
    return filled


def _show_logits(model: Any) -> None:
    """What goes into a last softmax is a second output: of large logits a softmax leaves ones and zeros."""
    from onnx import helper

    last = model.graph.node[-1]
    if last.op_type == "Softmax":
        model.graph.output.append(helper.make_tensor_value_info(last.input[0], 1, None))


def _flatten_what_there_is(model: Any) -> None:
    """The number of features that an exporter wrote into a Reshape before a dense layer becomes -1."""
    from onnx import numpy_helper

    dense = {node.input[0] for node in model.graph.node if node.op_type in ("Gemm", "MatMul")}
    for node in model.graph.node:
        if node.op_type == "Reshape" and node.output[0] in dense:
            node.input[1] = "to rows"
            model.graph.initializer.append(numpy_helper.from_array(np.array([1, -1]), "to rows"))


def fill(model: Any, name: str) -> None:
    """Puts seeded numbers into the initialisers of a model that have none, in place; `name` is a part of the seed."""
    roles = {source: (node, role) for node in model.graph.node for source, role in weights_of(node)}
    for tensor in model.graph.initializer:
        if _is_empty(tensor):
            node, role = roles.get(tensor.name, (None, "bias"))
            set_array(tensor, _numbers(f"{name}/{tensor.name}", tuple(tensor.dims), node, role))


def _is_empty(tensor: Any) -> bool:
    return not tensor.raw_data and tensor.data_type == 1 and not tensor.float_data


def weights_of(node: Any) -> Iterator[tuple[str, str]]:
    """The names of what a node takes as weights, each with its role."""
    return ((source, role) for source, role in zip(node.input, ROLES.get(node.op_type, ()), strict=False) if role)


def _classifier(model: Any, roles: Any) -> set[str]:
    """Names of the weights whose output is the classes: of the last dense layer and, where it is apart, its bias."""
    dense = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul")][-1]
    found = set(dense.input[1:])
    if dense.op_type == "MatMul":
        found |= set([node for node in model.graph.node if node.op_type == "Add"][-1].input)
    return found


def _narrow(shape: tuple[int, ...], node: Any, role: str, divisor: int, last: bool) -> tuple[int, ...]:
    def divided(size: int, keep: bool) -> int:
        return size if keep or size == 1 else size // divisor

    if role != "weight" or len(shape) == 1:
        return tuple(divided(size, last) for size in shape)
    if node.op_type == "Conv":
        return divided(shape[0], False), divided(shape[1], shape[1] in IMAGE_CHANNELS), *shape[2:]
    classes = 0 if node.op_type == "Gemm" else 1
    return tuple(divided(size, last and axis == classes) for axis, size in enumerate(shape))


def _numbers(name: str, shape: tuple[int, ...], node: Any, role: str) -> np.ndarray:
    if role == "scale":
        return seeded.tensor(f"{name}.running_var", shape)
    if role == "weight" and node.op_type == "MatMul":
        return np.ascontiguousarray(seeded.tensor(f"{name}.weight", shape[::-1]).T)
    return seeded.tensor(f"{name}.{role}", shape)


def set_array(tensor: Any, array: np.ndarray) -> None:
    """Puts an array into an initialiser, under the name that it has."""
    from onnx import numpy_helper

    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


def arrays(model: Any) -> dict[str, np.ndarray]:
    """Name -> array of every initialiser."""
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def shuffled(model: Any, generator: random.Random) -> Any:
    """The same function: nodes and initialisers in another order, additions the other way round, every name new."""
    import onnx

    other = onnx.ModelProto()
    other.CopyFrom(model)
    for field in (other.graph.node, other.graph.initializer):
        mixed = generator.sample(list(field), len(field))
        del field[:]
        field.extend(mixed)
    for node in other.graph.node:
        if node.op_type in ("Add", "Mul") and generator.random() < 0.5:
            node.input[:] = node.input[::-1]
    rename(other, lambda name: f"v{generator.getrandbits(64):x}")
    return other


def rename(model: Any, new: Callable[[str], str]) -> None:
    """Renames every tensor of the graph, in place."""
    found: dict[str, str] = {"": ""}

    def of(name: str) -> str:
        return found.setdefault(name, new(name)) if name else ""

    for node in model.graph.node:
        node.input[:] = map(of, node.input)
        node.output[:] = map(of, node.output)
    for each in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        each.name = of(each.name)
