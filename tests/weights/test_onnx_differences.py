"""A graph that computes something else than the model is refused, whatever its tensors are called; one that computes
the same in other words is taken. ONNX Runtime says which of the two a graph is."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from golden import onnx_graphs, seeded
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from transfer.__main__ import main
from transfer.errors import TransferError
from transfer.models import registry
from transfer.weights import create_model
from transfer.weights.convert import convert_file

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

# graph -> (model, its fields): small, and the names of the first two are PyTorch's
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "lenet5.legacy": ("lenet5", {}),
    "resnet18.unfolded": ("resnet18", dict(width=1 / 16)),
    "googlenet.legacy": ("googlenet", dict(width=1 / 8, transform_input=True)),
    "inception_v3.keras": ("inception_v3", dict(width=1 / 8, bn_scale=False, count_padding=False)),
    "vgg11_bn.dynamo": ("vgg11_bn", dict(width=1 / 16)),
}
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


@functools.cache
def compiled(graph: str) -> Any:
    arch, fields = MODELS[graph]
    shape = [each.dim_value or 1 for each in onnx_graphs.graph(graph).graph.input[0].type.tensor_type.shape.dim]
    graphdef, _ = nnx.split(registry.build(arch, seed=None, **fields, num_classes=expected(graph).shape[-1]))
    given_images = images(tuple(shape))
    given_images = given_images.transpose(0, 2, 3, 1) if shape[1] in (1, 3) else given_images
    run_model = jax.jit(lambda state: nnx.merge(graphdef, state)(given_images)[0])
    return lambda model: np.asarray(run_model(nnx.state(model)))


def load(graph: str, path: Path, **more: Any) -> nnx.Module:
    arch, fields = MODELS[graph]
    return create_model(arch, path, **fields, **more)


# What a stranger's export does before the first layer.

LENET, RESNET, GOOGLENET, INCEPTION, VGG = MODELS


def turned_channels(g: Surgery) -> None:
    g.behind(g.image, "Gather", g.constant([2, 1, 0], np.int64), axis=1)


def flipped_channels(g: Surgery) -> None:
    numbers = (g.constant([each], np.int64) for each in (-1, -(2**63) + 1, 1, -1))
    g.behind(g.image, "Slice", *numbers)


def one_channel_thrice(g: Surgery) -> None:
    g.behind(g.image, "Gather", g.constant([0, 0, 0], np.int64), axis=1)


def joined_the_other_way_round(g: Surgery) -> None:
    """As `torch.cat((x[:, 1:], x[:, :1]), 1)`."""
    for i, ends in enumerate(((1, 9), (0, 1))):
        numbers = [g.constant([each], np.int64) for each in (*ends, 1)]
        g.graph.node.append(helper.make_node("Slice", [g.image, *numbers], [f"part {i}"], name=f"{NODE} {i}"))
    for node in g.graph.node:
        node.input[:] = ["joined" if each == g.image and node.op_type != "Slice" else each for each in node.input]
    g.graph.node.append(helper.make_node("Concat", ["part 0", "part 1"], ["joined"], name=NODE, axis=1))


def flipped(axis: int) -> Callable[[Surgery], None]:
    def change(g: Surgery) -> None:
        numbers = (g.constant([each], np.int64) for each in (-1, -(2**63) + 1, axis, -1))
        g.behind(g.image, "Slice", *numbers)

    change.__name__ = f"flipped along axis {axis}"
    return change


def cropped_and_framed(g: Surgery) -> None:
    g.behind(g.image, "Pad", g.constant([0, 0, 2, 2, 0, 0, 0, 0], np.int64))
    cropped = g.graph.node[-1].output[0]
    g.behind(cropped, "Slice", *(g.constant(each, np.int64) for each in ([0, 0], [-2, -2], [2, 3])))


def rolled(g: Surgery) -> None:
    g.behind(g.image, "Gather", g.constant([*range(3, 28), 0, 1, 2], np.int64), axis=2)


def blurred(g: Surgery) -> None:
    put_pool: dict[str, Any] = dict(kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    g.behind(g.image, "AveragePool", **put_pool)


def dilated_grey(g: Surgery) -> None:
    g.behind(g.image, "MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def height_and_width_exchanged(g: Surgery) -> None:
    g.behind(g.image, "Transpose", perm=[0, 1, 3, 2])


def mirrored_frame(g: Surgery) -> None:
    g.behind(g.image, "Pad", g.constant([0, 0, 2, 2, 0, 0, 2, 2], np.int64), mode="reflect")
    put(g.first("Conv"), pads=[0, 0, 0, 0])
    g.first("Conv").name = "/conv1/Conv"


def white_frame(g: Surgery) -> None:
    g.behind(g.image, "Pad", g.constant([0, 0, 2, 2, 0, 0, 2, 2], np.int64), g.constant(1.0))
    put(g.first("Conv"), pads=[0, 0, 0, 0])
    g.first("Conv").name = "/conv1/Conv"


def framed(g: Surgery) -> None:
    g.behind(g.image, "Pad", g.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64))


def scaled(op: str, *numbers: float, shape: tuple[int, ...] = ()) -> Callable[[Surgery], None]:
    def change(g: Surgery) -> None:
        g.behind(g.image, op, g.constant(np.array(numbers).reshape(shape)))

    change.__name__ = f"{op} {numbers}"
    return change


def imagenet(g: Surgery) -> None:
    g.behind(g.image, "Div", g.constant(np.array([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)))
    g.behind(g.image, "Sub", g.constant(np.array([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)))


def rounded(g: Surgery) -> None:
    g.behind(g.image, "Cast", to=TensorProto.INT32, name=NODE)
    g.behind(g.graph.node[-1].output[0], "Cast", to=TensorProto.FLOAT, name="back")


def batch_norm_first(g: Surgery) -> None:
    g.behind(g.image, "BatchNormalization", *(g.constant([v]) for v in (0.5, 0.1, 0.4, 0.3)))


# What is done further in.


def changed(op: str, number: int = 0, **attributes: Any) -> Callable[[Surgery], None]:
    def change(g: Surgery) -> None:
        put(g.all(op)[number], **attributes)

    change.__name__ = f"{op} {number} with {attributes}"
    return change


def replaced(op: str, by: str, number: int = 0, **attributes: Any) -> Callable[[Surgery], None]:
    def change(g: Surgery) -> None:
        node = g.all(op)[number]
        node.op_type = by
        put(node, **attributes)

    change.__name__ = f"{by} for {op} {number}"
    return change


def left_out(op: str, number: int = 0) -> Callable[[Surgery], None]:
    """The node that took its output is the one that stands elsewhere."""

    def change(g: Surgery) -> None:
        node = g.all(op)[number]
        source, gone = node.input[0], node.output[0]
        g.graph.node.remove(node)
        for each in g.graph.node:
            if gone in each.input:
                each.input[:] = [source if name == gone else name for name in each.input]
                each.name = f"{NODE}: {each.name}"

    change.__name__ = f"without {op} {number}"
    return change


def after(op: str, number: int, new: str, *constants: Any, **attributes: Any) -> Callable[[Surgery], None]:
    def change(g: Surgery) -> None:
        g.behind(g.all(op)[number].output[0], new, *(g.constant(*each) for each in constants), **attributes)

    change.__name__ = f"{new} after {op} {number}"
    return change


def average_of_a_corner(g: Surgery) -> None:
    """Not global: a window of one cell less, and then one of what is left."""
    put(g.first("GlobalAveragePool"))
    node = g.first("GlobalAveragePool")
    node.op_type = "AveragePool"
    put(node, kernel_shape=[1, 1], strides=[2, 2])


def branches_exchanged(g: Surgery) -> None:
    node = g.all("Concat")[1]
    node.input[:] = node.input[::-1]
    node.name = NODE


def shortcut_from_elsewhere(g: Surgery) -> None:
    node = g.all("Add")[1]
    node.input[:] = [node.input[0], node.input[0]]
    node.name = NODE


DIFFERENT: list[tuple[str, Callable[[Surgery], None]]] = [
    (RESNET, turned_channels),
    (RESNET, flipped_channels),
    (RESNET, one_channel_thrice),
    (RESNET, framed),
    (RESNET, joined_the_other_way_round),
    (RESNET, imagenet),
    (GOOGLENET, turned_channels),
    (GOOGLENET, scaled("Div", 255.0)),
    *((LENET, flipped(axis)) for axis in (2, 3)),
    (LENET, cropped_and_framed),
    (LENET, rolled),
    (LENET, blurred),
    (LENET, dilated_grey),
    (LENET, height_and_width_exchanged),
    (LENET, mirrored_frame),
    (LENET, white_frame),
    (LENET, scaled("Div", 255.0)),
    (LENET, scaled("Mul", 2.0, shape=(1, 1, 1, 1))),
    (LENET, scaled("Sub", 0.5)),
    (LENET, scaled("Add", *np.arange(28.0), shape=(1, 28))),
    (LENET, rounded),
    (LENET, batch_norm_first),
    (LENET, changed("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 0, 0])),
    (LENET, changed("AveragePool", strides=[2, 2], kernel_shape=[1, 1])),
    (LENET, replaced("AveragePool", "MaxPool", 1, count_include_pad=None)),
    (LENET, replaced("Tanh", "Relu")),
    (LENET, replaced("Tanh", "Sigmoid", 3)),
    (LENET, left_out("Tanh", 2)),
    (LENET, after("Gemm", 2, "Tanh")),
    (LENET, after("Gemm", 2, "Softmax", axis=0)),
    (LENET, after("Conv", 0, "Transpose", perm=[0, 1, 3, 2])),
    (LENET, after("AveragePool", 1, "Transpose", perm=[0, 1, 3, 2])),
    (RESNET, changed("MaxPool", pads=[0, 0, 1, 1])),
    (RESNET, changed("MaxPool", pads=[0, 0, 0, 0], ceil_mode=1)),
    (RESNET, changed("MaxPool", kernel_shape=[2, 2], pads=[0, 0, 0, 0])),
    (RESNET, changed("MaxPool", dilations=[2, 2], pads=[2, 2, 2, 2])),
    (RESNET, replaced("MaxPool", "AveragePool", dilations=None, ceil_mode=None)),
    (RESNET, replaced("GlobalAveragePool", "GlobalMaxPool")),
    (RESNET, average_of_a_corner),
    (RESNET, replaced("Relu", "LeakyRelu", 3, alpha=0.1)),
    (RESNET, replaced("Relu", "Elu", 1)),
    (RESNET, replaced("Relu", "HardSwish", 16)),
    (RESNET, left_out("Relu", 4)),
    (RESNET, shortcut_from_elsewhere),
    (RESNET, changed("Conv", 1, dilations=[2, 2], pads=[2, 2, 2, 2])),
    (RESNET, changed("Conv", 0, pads=[2, 2, 3, 3])),
    (RESNET, after("Relu", 2, "Mul", (0.5,))),
    (RESNET, after("Add", 0, "Add", (np.linspace(0, 1, 4).reshape(4, 1, 1),))),
    (RESNET, after("Relu", 0, "LRN", size=3, alpha=1.0)),
    (RESNET, after("Relu", 0, "Clip", (0.0,), (1.0,))),
    (RESNET, after("GlobalAveragePool", 0, "Softmax", axis=1)),
    (GOOGLENET, branches_exchanged),
    (GOOGLENET, changed("MaxPool", 0, ceil_mode=0)),
    (GOOGLENET, changed("MaxPool", 2, pads=[0, 0, 2, 2])),
    (INCEPTION, changed("AveragePool", 4, count_include_pad=1)),
    (VGG, replaced("MaxPool", "AveragePool", 2, dilations=None, storage_order=None, ceil_mode=None)),
]


def called(value: Any) -> str:
    return getattr(value, "__name__", str(value)).replace(" ", "_")


@pytest.mark.parametrize(("graph", "change"), DIFFERENT, ids=called)
def test_another_function_is_refused_by_the_nodes_name(
    graph: str, change: Callable[[Surgery], None], tmp_path: Path
) -> None:
    g = Surgery(graph)
    change(g)
    assert error(run(g.sorted()), expected(graph)) > OTHER
    path = g.save(tmp_path / "model.onnx")
    with pytest.raises(TransferError, match=NODE) as raised:
        load(graph, path)
    assert str(raised.value).startswith(f"{path} does not fit {MODELS[graph][0]}: ")
    assert "\n" not in str(raised.value)


# What changes no value, though it is written otherwise.


def as_reduce_mean(*axes: int, keepdims: int = 0) -> Callable[[Surgery], None]:
    def change(g: Surgery) -> None:
        node = g.first("GlobalAveragePool")
        node.op_type = "ReduceMean"
        node.input.append(g.constant(axes, np.int64))
        put(node, keepdims=keepdims)

    change.__name__ = f"ReduceMean of {axes}, keepdims {keepdims}"
    return change


def rows_then_columns(g: Surgery) -> None:
    node = g.first("GlobalAveragePool")
    node.op_type = "ReduceMean"
    node.input.append(g.constant([2], np.int64))
    put(node, keepdims=1)
    g.behind(node.output[0], "ReduceMean", g.constant([-1], np.int64), keepdims=1)


def average_of_all(g: Surgery) -> None:
    node = g.first("GlobalAveragePool")
    node.op_type = "AveragePool"
    put(node, kernel_shape=[2, 2], strides=[1, 1])


def squeezed(g: Surgery) -> None:
    node = g.first("Flatten")
    node.op_type = "Squeeze"
    node.input.append(g.constant([2, 3], np.int64))
    put(node, axis=None)


def reshaped(g: Surgery) -> None:
    node = g.first("Flatten")
    node.op_type = "Reshape"
    node.input.append(g.constant([-1, 400], np.int64))
    put(node, axis=None)


def taken_apart_and_put_together(g: Surgery) -> None:
    flat = g.first("Flatten").output[0]
    g.behind(flat, "Reshape", g.constant([1, 16, 1, 5, 5], np.int64))
    g.behind(g.graph.node[-1].output[0], "Reshape", g.constant([1, -1], np.int64))


def gathered_in_order(g: Surgery) -> None:
    """As `as_strided` is exported."""
    flat = g.first("Flatten").output[0]
    g.behind(flat, "Gather", g.constant(np.arange(400).reshape(16, 1, 25), np.int64), axis=1)
    g.behind(g.graph.node[-1].output[0], "Reshape", g.constant([1, -1], np.int64))


def channels_last_and_back(g: Surgery) -> None:
    g.behind(g.image, "Transpose", perm=[0, 2, 3, 1])
    g.behind(g.graph.node[-1].output[0], "Relu", name="none")
    g.graph.node[-1].op_type = "Identity"
    g.behind(g.graph.node[-1].output[0], "Transpose", perm=[0, 3, 1, 2])


def pool_padded_by_a_node(value: float) -> Callable[[Surgery], None]:
    def change(g: Surgery) -> None:
        node = g.first("MaxPool")
        g.behind(node.input[0], "Pad", g.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64), g.constant(value))
        put(node, pads=[0, 0, 0, 0])

    change.__name__ = f"padded with {value}"
    return change


def scaled_and_back(g: Surgery) -> None:
    g.behind(g.image, "Mul", g.constant(4.0))
    g.behind(g.graph.node[-1].output[0], "Div", g.constant(4.0))


def turned_and_back(g: Surgery) -> None:
    for _ in range(2):
        g.behind(g.graph.node[-1].output[0] if g.number else g.image, "Gather", g.constant([2, 1, 0], np.int64), axis=1)


def all_of_it(g: Surgery) -> None:
    g.behind(g.image, "Slice", *(g.constant(each, np.int64) for each in ([0, 0], [2**40, 3], [2, 1])))


def colder_logits(g: Surgery) -> None:
    """Not the same function: the classifier takes it up."""
    g.behind(g.graph.output[0].name, "Div", g.constant(2.0))


EQUAL: list[tuple[str, Callable[[Surgery], None]]] = [
    *((RESNET, as_reduce_mean(2, 3, keepdims=keep)) for keep in (1,)),
    (RESNET, rows_then_columns),
    (RESNET, average_of_all),
    (RESNET, squeezed),
    (RESNET, changed("MaxPool", ceil_mode=1, pads=[1, 1, 0, 0])),
    (RESNET, pool_padded_by_a_node(0.0)),
    (RESNET, pool_padded_by_a_node(-np.inf)),
    (RESNET, pool_padded_by_a_node(float(np.finfo(np.float32).min))),
    (RESNET, changed("Conv", 0, pads=[3, 3, 2, 2])),
    (RESNET, changed("Conv", 1, pads=None, auto_pad="SAME_UPPER")),
    (RESNET, scaled_and_back),
    (RESNET, turned_and_back),
    (RESNET, all_of_it),
    (RESNET, channels_last_and_back),
    (RESNET, after("Relu", 3, "Mul", (1.0,))),
    (LENET, reshaped),
    (LENET, taken_apart_and_put_together),
    (LENET, gathered_in_order),
    (LENET, changed("AveragePool", 0, ceil_mode=1)),
    (GOOGLENET, changed("MaxPool", 0, ceil_mode=0, pads=[0, 0, 1, 1])),
]


@pytest.mark.parametrize(("graph", "change"), EQUAL, ids=called)
def test_the_same_function_in_other_words_is_taken(
    graph: str, change: Callable[[Surgery], None], tmp_path: Path
) -> None:
    g = Surgery(graph)
    change(g)
    got = run(g.sorted())
    assert error(got, expected(graph)) <= SAME
    assert error(compiled(graph)(load(graph, g.save(tmp_path / "model.onnx"))), got) <= SAME


# What is another function, of the same model with other weights.
HELD: list[tuple[str, Callable[[Surgery], None]]] = [
    (LENET, colder_logits),
    (LENET, after("Gemm", 0, "Add", (np.linspace(-1, 1, 120),))),
    (LENET, after("Conv", 1, "Mul", (np.linspace(-1, 1, 16).reshape(16, 1, 1),))),
    (LENET, after("AveragePool", 1, "Transpose", perm=[0, 2, 3, 1])),
    (RESNET, left_out("BatchNormalization", 5)),
    (RESNET, changed("BatchNormalization", 2, epsilon=0.5)),
]


@pytest.mark.parametrize(("graph", "change"), HELD, ids=called)
def test_what_the_models_weights_can_hold_is_taken_up(
    graph: str, change: Callable[[Surgery], None], tmp_path: Path
) -> None:
    g = Surgery(graph)
    change(g)
    got = run(g.sorted())
    assert error(got, expected(graph)) > OTHER
    assert error(compiled(graph)(load(graph, g.save(tmp_path / "model.onnx"))), got) <= SAME


def test_a_graph_in_training_mode_is_refused(tmp_path: Path) -> None:
    g = Surgery(LENET)
    after("Gemm", 0, "Dropout", (0.5,), (True, bool))(g)
    with pytest.raises(TransferError, match=f"{NODE} .*is exported in training mode"):
        load(LENET, g.save(tmp_path / "model.onnx"))


# Whatever is done to a node: what is taken computes what the file does.

INSERTED: dict[str, Callable[[Any], tuple[tuple[Any, ...], dict[str, Any]]]] = {
    **{op: lambda draw: ((), {}) for op in ("Relu", "Tanh", "Sigmoid", "Identity", "Softmax", "Elu")},
    "Mul": lambda draw: ((draw(st.sampled_from((1.0, 2.0, -1.0))),), {}),
    "Add": lambda draw: ((draw(st.sampled_from((0.0, 1.0))),), {}),
    "MaxPool": lambda draw: ((), window(draw)),
    "AveragePool": lambda draw: ((), window(draw) | dict(count_include_pad=draw(st.integers(0, 1)))),
}


def window(draw: Any) -> dict[str, Any]:
    side = draw(st.integers(1, 3))
    pads = [draw(st.integers(0, side - 1)) for _ in range(4)]
    return dict(kernel_shape=[side, side], pads=pads, strides=[draw(st.integers(1, 2))] * 2)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.data())
def test_any_change_is_taken_up_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    graph = data.draw(st.sampled_from((LENET, RESNET)))
    g = Surgery(graph)
    if data.draw(st.booleans()):
        tensor = data.draw(st.sampled_from([g.image, *(node.output[0] for node in g.graph.node)]))
        op = data.draw(st.sampled_from(sorted(INSERTED)))
        constants, attributes = INSERTED[op](data.draw)
        g.behind(tensor, op, *map(g.constant, constants), **attributes)
    else:
        node = data.draw(st.sampled_from(g.all("Conv", "MaxPool", "AveragePool")))
        pads = [data.draw(st.integers(0, 3)) for _ in range(4)]
        strides = [data.draw(st.integers(1, 3)) for _ in range(2)]
        put(
            node,
            **data.draw(st.sampled_from((dict(pads=pads), dict(strides=strides), dict(pads=pads, strides=strides)))),
        )
    try:
        got = run(g.sorted())
    except Exception:  # shapes that do not fit together
        assume(False)
    path = g.save(tmp_path_factory.getbasetemp() / "drawn.onnx")
    try:
        model = load(graph, path)
    except TransferError as refused:
        assert str(refused).startswith(f"{path} does not fit {MODELS[graph][0]}: ")
        return
    assert error(compiled(graph)(model), got) <= SAME


def test_an_open_size_is_compared_where_sizes_round(tmp_path: Path) -> None:
    """Padding before the map alone is enough at 224 pixels, and not at 257."""
    g = Surgery(RESNET)
    put(g.first("MaxPool"), pads=[1, 1, 0, 0])
    load(RESNET, g.save(tmp_path / "model.onnx"))
    for dim in g.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.Clear()
    with pytest.raises(TransferError, match=f"for images of 257x257 pixels, where the model has max_pool.*{NODE}"):
        load(RESNET, g.save(tmp_path / "model.onnx"))


# By names, for those who mean it.


def test_by_names_takes_what_the_graph_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    g = Surgery(LENET)
    put(g.first("Conv"), pads=[1, 1, 3, 3])
    path, output = g.save(tmp_path / "model.onnx"), tmp_path / "ours.safetensors"
    with pytest.raises(TransferError, match=f"where the model has conv1 .*{NODE}.*by_names=True .*--by_names"):
        create_model("lenet5", path)
    assert main(["convert", str(path), "--model=lenet5", f"--output={output}"]) == 1
    assert NODE in capsys.readouterr().err and not output.exists()
    assert main(["convert", str(path), "--model=lenet5", f"--output={output}", "--by_names"]) == 0
    kernel = onnx_graphs.arrays(g.model)["conv2.weight"].transpose(2, 3, 1, 0)
    for model in (create_model("lenet5", path, by_names=True), create_model("lenet5", output)):
        np.testing.assert_array_equal(registry.flat_state(model)["conv2.kernel"], kernel)


def test_by_names_past_an_operator_that_is_not_known(tmp_path: Path) -> None:
    g = Surgery(LENET)
    g.first("Tanh").op_type = "Squash"
    path = tmp_path / "model.onnx"
    onnx.save(g.model, str(path))
    with pytest.raises(TransferError, match="'Squash' .* is not known here; its names fit: by_names=True"):
        create_model("lenet5", path)
    assert convert_file(path, "lenet5", tmp_path / "x.safetensors", by_names=True) == 10


def test_names_that_do_not_fit_are_not_advised(tmp_path: Path) -> None:
    g = Surgery(LENET)
    put(g.first("Conv"), pads=[1, 1, 3, 3])
    onnx_graphs.rename(g.model, lambda name: f"renamed {name}")
    onnx.save(g.model, str(tmp_path / "model.onnx"))
    with pytest.raises(TransferError) as raised:
        create_model("lenet5", tmp_path / "model.onnx")
    assert "by_names" not in str(raised.value)
    with pytest.raises(TransferError, match="by .* names|none of its"):
        create_model("lenet5", tmp_path / "model.onnx", by_names=True)


def test_tensors_under_exchanged_names_stay_where_the_graph_has_them(tmp_path: Path) -> None:
    """Two layers of one shape."""
    g = Surgery(RESNET)
    names = {"layer1.0.conv1.weight": "layer1.0.conv2.weight", "layer1.0.conv2.weight": "layer1.0.conv1.weight"}
    onnx_graphs.rename(g.model, lambda name: names.get(name, name))
    path = g.save(tmp_path / "model.onnx")
    assert error(compiled(RESNET)(load(RESNET, path)), expected(RESNET)) <= SAME


# Preprocessing inside the graph.


@pytest.mark.parametrize("most", [1, 255])
def test_the_records_own_preprocessing_in_the_graph(
    most: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    g = Surgery(RESNET)
    g.behind(g.image, "Div", g.constant(most * np.array([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)))
    g.behind(g.image, "Sub", g.constant(most * np.array([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)))
    path = g.save(tmp_path / "model.onnx")
    with caplog.at_level("WARNING", logger="absl"):
        model = create_model("resnet18.tv", path, width=1 / 16)
    assert "normalises its images itself" in caplog.text and NODE in caplog.text
    assert error(compiled(RESNET)(model), expected(RESNET)) <= SAME
    with pytest.raises(
        TransferError, match=rf"the graph has .*Div '{NODE} \d+' \(images \* 4.367 4.464 4.444 \+ -2.118"
    ):
        create_model("resnet18", Surgery.save(_over(RESNET), tmp_path / "other.onnx"), width=1 / 16)


def _over(graph: str) -> Surgery:
    g = Surgery(graph)
    imagenet(g)
    return g
