"""What strangers' exports do to a graph, as tables of (graph, change): another function, the same, other weights."""

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx_surgery import GOOGLENET, INCEPTION, LENET, NODE, RESNET, VGG, Surgery, onnx, put

# What a stranger's export does before the first layer.


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
        g.graph.node.append(onnx.helper.make_node("Slice", [g.image, *numbers], [f"part {i}"], name=f"{NODE} {i}"))
    for node in g.graph.node:
        node.input[:] = ["joined" if each == g.image and node.op_type != "Slice" else each for each in node.input]
    g.graph.node.append(onnx.helper.make_node("Concat", ["part 0", "part 1"], ["joined"], name=NODE, axis=1))


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
    g.behind(g.image, "Cast", to=onnx.TensorProto.INT32, name=NODE)
    g.behind(g.graph.node[-1].output[0], "Cast", to=onnx.TensorProto.FLOAT, name="back")


def batch_norm_first(g: Surgery) -> None:
    g.behind(g.image, "BatchNormalization", *(g.constant([v]) for v in (0.5, 0.1, 0.4, 0.3)))


NORM = 0.5 / np.sqrt(0.3 + 1e-5)


def one_channel_scaled(g: Surgery) -> None:
    g.behind(g.image, "Div", g.constant(np.array([1.0, 1.0, 255.0]).reshape(1, 3, 1, 1)))


def turned_and_pooled(g: Surgery) -> None:
    """A pool takes the turned channels, which no kernel before it can take up."""
    turned_channels(g)
    g.behind(g.graph.node[-1].output[0], "MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def other_images_for_one_of_two(g: Surgery, name: str) -> None:
    """The shortcut's stem has the same weights, and images as they are."""
    stem_twice(g)
    first, second = (node for node in g.all("Conv") if node.input[0] == g.image)
    second.input[1] = first.input[1]
    first.input[0] = name


def normalised_for_one_of_two(g: Surgery) -> None:
    other_images_for_one_of_two(g, "centred")
    g.graph.node.append(onnx.helper.make_node("Sub", [g.image, g.constant(0.5)], ["centred"], name=NODE))


def two_inputs(g: Surgery) -> None:
    other_images_for_one_of_two(g, "other")
    g.graph.input.append(g.graph.input[0])
    g.graph.input[-1].name = "other"


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


def stem_twice(g: Surgery) -> None:
    """The first shortcut gets a stem of its own, with other weights."""
    copies = [onnx.NodeProto.FromString(g.first(op).SerializeToString()) for op in STEM]
    for node in copies:
        node.name, node.output[0] = f"{NODE}: {node.name}", f"{node.output[0]} again"
    for before, node in zip(copies, copies[1:], strict=False):
        node.input[0] = before.output[0]
    kernel = next(each for each in g.graph.initializer if each.name == copies[0].input[1])
    copies[0].input[1] = g.constant(2 * onnx.numpy_helper.to_array(kernel)[::-1])
    add, pooled = g.first("Add"), g.first("MaxPool").output[0]
    add.input[:] = [copies[-1].output[0] if each == pooled else each for each in add.input]
    g.graph.node.extend(copies)


STEM = ("Conv", "BatchNormalization", "Relu", "MaxPool")
DIFFERENT: list[tuple[str, Callable[[Surgery], None]]] = [
    (RESNET, framed),
    (RESNET, turned_and_pooled),
    (RESNET, normalised_for_one_of_two),
    (GOOGLENET, turned_channels),
    *((LENET, flipped(axis)) for axis in (2, 3)),
    (LENET, cropped_and_framed),
    (LENET, rolled),
    (LENET, blurred),
    (LENET, dilated_grey),
    (LENET, height_and_width_exchanged),
    (LENET, mirrored_frame),
    (LENET, white_frame),
    (LENET, scaled("Div", 2.0)),
    (LENET, scaled("Mul", 2.0, shape=(1, 1, 1, 1))),
    (LENET, scaled("Add", 0.5)),
    (LENET, scaled("Mul", -1.0)),
    (RESNET, one_channel_scaled),
    (LENET, scaled("Add", *np.arange(28.0), shape=(1, 28))),
    (LENET, rounded),
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
    (RESNET, stem_twice),
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


def classes_turned(g: Surgery) -> None:
    g.behind(g.graph.output[0].name, "Gather", g.constant([3, 1, 2, 0, 4, 5, 6, 9, 8, 7], np.int64), axis=1)


def classes_taken(g: Surgery) -> None:
    g.behind(g.graph.output[0].name, "Gather", g.constant([7, 1, 1], np.int64), axis=1)


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


# What is another function, of the same model with other weights.
HELD: list[tuple[str, Callable[[Surgery], None]]] = [
    (RESNET, turned_channels),
    (RESNET, flipped_channels),
    (RESNET, one_channel_thrice),
    (RESNET, joined_the_other_way_round),
    (LENET, colder_logits),
    (LENET, after("Gemm", 0, "Add", (np.linspace(-1, 1, 120),))),
    (LENET, after("Conv", 1, "Mul", (np.linspace(-1, 1, 16).reshape(16, 1, 1),))),
    (LENET, after("AveragePool", 1, "Transpose", perm=[0, 2, 3, 1])),
    (LENET, classes_turned),
    (LENET, classes_taken),
    (RESNET, left_out("BatchNormalization", 5)),
    (RESNET, changed("BatchNormalization", 2, epsilon=0.5)),
]


def imagenet_of_pixels(g: Surgery) -> None:
    imagenet(g)
    g.behind(g.image, "Div", g.constant(255.0))


def caffe(g: Surgery) -> None:
    """Turned first: the numbers are those of blue, green and red."""
    g.behind(g.image, "Sub", g.constant(np.array([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)))
    turned_channels(g)


def centred(g: Surgery) -> None:
    g.behind(g.image, "Sub", g.constant(1.0))
    g.behind(g.image, "Mul", g.constant(2.0))


# What is preprocessing, and the recipe of pixels from 0 to 255 that it is: scale, mean and deviation.
Numbers = tuple[float, tuple[float, ...], tuple[float, ...]]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PREPROCESSING: list[tuple[str, Callable[[Surgery], None], Numbers]] = [
    (RESNET, imagenet, (1 / 255, *IMAGENET)),
    (RESNET, imagenet_of_pixels, (1.0, *(tuple(255 * number for number in each) for each in IMAGENET))),
    (RESNET, caffe, (1.0, (123.68, 116.779, 103.939), (1.0,) * 3)),
    (RESNET, centred, (1 / 255, (0.5,) * 3, (0.5,) * 3)),
    (GOOGLENET, scaled("Div", 255.0), (1.0, (0.0,) * 3, (255.0,) * 3)),
    (LENET, scaled("Div", 255.0), (1.0, (0.0,), (255.0,))),
    (LENET, scaled("Mul", 255.0), (1 / 255, (0.0,), (1 / 255,))),
    (LENET, scaled("Sub", 0.5), (1 / 255, (0.5,), (1.0,))),
    (LENET, scaled("Sub", 117.0), (1.0, (117.0,), (1.0,))),
    (LENET, batch_norm_first, (1 / 255, (0.4 - 0.1 / NORM,), (1 / NORM,))),
]
