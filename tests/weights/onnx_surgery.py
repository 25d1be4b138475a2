"""ONNX graphs that are about to be changed, and what ONNX Runtime and the model each make of them."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from golden import onnx_graphs, seeded

from transfer.models import registry
from transfer.weights import create_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper  # noqa: E402

# graph -> (model, its fields): small, and the names of the first two are PyTorch's
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "lenet5.legacy": ("lenet5", {}),
    "resnet18.unfolded": ("resnet18", dict(width=1 / 16)),
    "googlenet.legacy": ("googlenet", dict(width=1 / 8, transform_input=True)),
    "inception_v3.keras": ("inception_v3", dict(width=1 / 8, bn_scale=False, count_padding=False)),
    "vgg11_bn.dynamo": ("vgg11_bn", dict(width=1 / 16)),
}
LENET, RESNET, GOOGLENET, INCEPTION, VGG = MODELS
NODE = "the strange one"
# Of the largest logit.
SAME, OTHER = 2e-5, 1e-3


@functools.cache
def stored(graph: str) -> bytes:
    """A graph of `MODELS`, filled, as it is stored."""
    return onnx_graphs.model(graph, round(1 / MODELS[graph][1].get("width", 1))).SerializeToString()


class Surgery:
    """A graph that is about to be changed."""

    def __init__(self, graph: str) -> None:
        self.model = onnx.load_model_from_string(stored(graph))
        self.graph = self.model.graph
        self.number = 0

    @property
    def image(self) -> str:
        return self.graph.input[0].name

    def all(self, *ops: str) -> list[Any]:
        return [node for node in self.graph.node if node.op_type in ops]

    def first(self, *ops: str) -> Any:
        return self.all(*ops)[0]

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        self.number += 1
        name = f"constant {self.number}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def behind(self, tensor: str, op: str, *constants: str, name: str = "", **attributes: Any) -> None:
        """A node that takes a tensor, and gives it to all that took it."""
        self.number += 1
        name = name or f"{NODE} {self.number}"
        output = f"output {self.number}"
        for node in self.graph.node:
            node.input[:] = [output if each == tensor else each for each in node.input]
        for each in self.graph.output:
            each.name = output if each.name == tensor else each.name
        self.graph.node.append(helper.make_node(op, [tensor, *constants], [output], name=name, **attributes))

    def sorted(self) -> Any:
        """With each node after those that it takes from, as ONNX Runtime wants them."""
        ready = {self.image, "", *(each.name for each in self.graph.initializer)}
        left, found = list(self.graph.node), []
        while left:
            node = next(each for each in left if ready.issuperset(each.input))
            left.remove(node)
            found.append(node)
            ready |= set(node.output)
        del self.graph.node[:]
        self.graph.node.extend(found)
        return self.model

    def save(self, path: Path) -> Path:
        onnx.save(self.sorted(), str(path))
        return path


def put(node: Any, **attributes: Any) -> None:
    """Sets attributes of a node; None takes one away."""
    for name, value in attributes.items():
        for each in [each for each in node.attribute if each.name == name]:
            node.attribute.remove(each)
        if value is not None:
            node.attribute.append(helper.make_attribute(name, value))
    node.name = NODE


def run(model: Any) -> np.ndarray:
    """What ONNX Runtime makes of seeded images at the last output."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shape = [each if isinstance(each, int) else 1 for each in session.get_inputs()[0].shape]
    return session.run(None, {session.get_inputs()[0].name: images(tuple(shape))})[-1]


def images(shape: tuple[int, ...]) -> np.ndarray:
    """Channels where the shape has them; not symmetric in any way."""
    channels_first = shape[1] in (1, 3)
    made = seeded.images((shape[0], *shape[2:], shape[1]) if channels_first else shape)
    return np.ascontiguousarray(made.transpose(0, 3, 1, 2)) if channels_first else made


@functools.cache
def expected(graph: str) -> np.ndarray:
    return run(onnx.load_model_from_string(stored(graph)))


def error(one: np.ndarray, other: np.ndarray) -> float:
    """Of the largest value; infinite where the shapes differ."""
    if one.size != other.size:
        return float("inf")
    return float(np.abs(one.ravel() - other.ravel()).max() / np.abs(other).max())


def compiled(graph: str) -> Any:
    """What runs a model on the images of the graph's expected output."""
    shape = [each.dim_value or 1 for each in onnx_graphs.graph(graph).graph.input[0].type.tensor_type.shape.dim]
    given_images = images(tuple(shape))
    given_images = given_images.transpose(0, 2, 3, 1) if shape[1] in (1, 3) else given_images
    return lambda model: np.asarray(compiled_for(graph)(model, given_images))


@functools.cache
def compiled_for(graph: str) -> Any:
    """What runs a model on images with the channels last."""
    arch, fields = MODELS[graph]
    graphdef, _ = nnx.split(registry.build(arch, seed=None, **fields, num_classes=expected(graph).shape[-1]))
    run_model = jax.jit(lambda state, given_images: nnx.merge(graphdef, state)(given_images)[0])
    return lambda model, given_images: run_model(nnx.state(model), given_images)


def load(graph: str, path: Path, **more: Any) -> nnx.Module:
    arch, fields = MODELS[graph]
    return create_model(arch, path, **fields, **more)
