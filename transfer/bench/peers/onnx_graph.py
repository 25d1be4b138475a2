"""Our model as an ONNX file with its weights: the one export that ONNX Runtime and OpenVINO run.

Written from the traced graph (`transfer.models.graph`), node by node as PyTorch's exporter would: channels first,
convolution and batch norm apart, so that each runtime fuses as it likes. Needs no PyTorch, and takes any architecture
whose operations are in `WRITERS`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from transfer.bench.peers.case import Skipped
from transfer.models import registry
from transfer.models.graph.trace import Node, trace

# The newest that the oldest supported ONNX Runtime reads.
OPSET, IR_VERSION = 17, 8


class Writer:
    """Nodes and weights of the file so far."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """One ONNX node; the name of its output."""
        from onnx import helper

        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def weight(self, name: str, array: Any) -> str:
        """One initialiser; its name."""
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def parameter(self, name: str, missing: Any) -> str:
        """The model's array of that path, `missing` where it has none."""
        return self.weight(name, self.arrays.get(name, missing))


def write(model: nnx.Module, image_shape: tuple[int, int, int, int], path: Path, tap: str = "pre_logits") -> None:
    """Writes `model` up to `tap` for images of one shape, (B, H, W, C) for us and (B, C, H, W) in the file.

    Raises:
      Skipped: the model does something that has no ONNX form here.
    """
    import onnx
    from onnx import helper

    graph = trace(model, image_shape, with_values=True, taps_wanted=[tap])
    writer = Writer({name: np.asarray(array) for name, array in registry.flat_state(model).items()})
    names = ["images"]
    for node in graph.nodes[1:]:
        if node.op not in WRITERS:
            raise Skipped(f"this network's {node.op!r} has no ONNX form here")
        names.append(WRITERS[node.op](writer, node, [names[i] for i in node.inputs]))
    batch, height, width, channels = image_shape
    shape = graph.nodes[graph.output].shape
    features = [shape[0], shape[-1], *shape[1:-1]]
    body = helper.make_graph(
        writer.nodes,
        "transfer",
        [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [batch, channels, height, width])],
        [helper.make_tensor_value_info(names[graph.output], onnx.TensorProto.FLOAT, features)],
        writer.weights,
    )
    opset = [helper.make_opsetid("", OPSET)]
    onnx.save(helper.make_model(body, opset_imports=opset, ir_version=IR_VERSION), path)


def _conv(writer: Writer, node: Node, inputs: list[str]) -> str:
    given, layer = node.attributes, node.layer
    kernel = writer.weight(f"{layer}.kernel", writer.arrays[f"{layer}.kernel"].transpose(3, 2, 0, 1))
    bias = [writer.parameter(f"{layer}.bias", None)] if given["bias"] else []
    return writer.add(
        "Conv", [*inputs, kernel, *bias], group=given["groups"], **_window(given), kernel_shape=given["kernel"]
    )


def _window(given: Mapping[str, Any]) -> dict[str, Any]:
    padding = given["padding"]
    if isinstance(padding, str):
        return dict(strides=given["strides"], auto_pad={"SAME": "SAME_UPPER", "VALID": "VALID"}[padding])
    return dict(strides=given["strides"], pads=[side[end] for end in (0, 1) for side in padding])


def _batch_norm(writer: Writer, node: Node, inputs: list[str]) -> str:
    layer, channels = node.layer, node.shape[-1]
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    arrays = [
        writer.parameter(f"{layer}.{name}", missing)
        for name, missing in (("scale", ones), ("bias", zeros), ("mean", zeros), ("var", ones))
    ]
    return writer.add("BatchNormalization", [*inputs, *arrays], epsilon=float(node.attributes["epsilon"]))


def _max_pool(writer: Writer, node: Node, inputs: list[str]) -> str:
    given = dict(node.attributes)
    if given.get("explicit"):
        value = next(iter(node.chain[0].constants.values()))
        inputs = [_padded(writer, inputs[0], given["padding"], value)]
        given["padding"] = ((0, 0), (0, 0))
    return writer.add("MaxPool", inputs, kernel_shape=given["kernel"], **_window(given))


def _pad(writer: Writer, node: Node, inputs: list[str]) -> str:
    return _padded(writer, inputs[0], node.attributes["padding"], next(iter(node.chain[0].constants.values())))


def _padded(writer: Writer, source: str, padding: Sequence[tuple[int, int]], value: Any) -> str:
    pads = [0, 0, *[low for low, _ in padding], 0, 0, *[high for _, high in padding]]
    name = f"pads_{len(writer.nodes)}"
    amounts = writer.weight(name, np.array(pads, np.int64))
    return writer.add("Pad", [source, amounts, writer.weight(f"{name}_value", np.float32(value))])


def _avg_pool(writer: Writer, node: Node, inputs: list[str]) -> str:
    given = node.attributes
    if given.get("adaptive"):
        raise Skipped("an average to a fixed number of cells has no ONNX form here")
    # a divisor for each position is one that does not count the padding
    counts_padding = all(np.ndim(divisor) == 0 for divisor in node.chain[-1].constants.values())
    window = dict(kernel_shape=given["kernel"], **_window(given))
    return writer.add("AveragePool", inputs, count_include_pad=int(counts_padding), **window)


def _mean(writer: Writer, node: Node, inputs: list[str]) -> str:
    if tuple(node.attributes["axes"]) != (1, 2):
        raise Skipped(f"a mean over the axes {node.attributes['axes']} has no ONNX form here")
    return writer.add("Flatten", [writer.add("GlobalAveragePool", inputs)])


def _concat(writer: Writer, node: Node, inputs: list[str]) -> str:
    if node.attributes["axis"] != len(node.shape) - 1:
        raise Skipped("only channels are joined here")
    return writer.add("Concat", inputs, axis=1)


def _slice(writer: Writer, node: Node, inputs: list[str]) -> str:
    """Every so many rows and columns, from the first: a pool of one cell, as Keras has it."""
    _, down, across, channels = node.attributes["strides"]
    if any(node.chain[0].equation.params["start_indices"]) or channels != 1:
        raise Skipped("a slice from the middle has no ONNX form here")
    return writer.add("MaxPool", inputs, kernel_shape=[1, 1], strides=[down, across])


def _elementwise(op: str) -> Callable[[Writer, Node, list[str]], str]:
    def elementwise(writer: Writer, node: Node, inputs: list[str]) -> str:
        operands = iter(inputs)
        constants = node.chain[0].constants if node.chain else {}
        both = [
            _constant(writer, i, constants[i], len(node.shape)) if i in constants else next(operands)
            for i in range(len(inputs) + len(constants))
        ]
        return writer.add(op, both)

    return elementwise


def _constant(writer: Writer, position: int, value: Any, rank: int) -> str:
    array = np.asarray(value, np.float32)
    if array.ndim:
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        array = np.moveaxis(array, -1, 1)
    return writer.weight(f"constant_{len(writer.nodes)}_{position}", array)


def _relu(writer: Writer, node: Node, inputs: list[str]) -> str:
    return writer.add("Relu", inputs)


WRITERS: dict[str, Callable[[Writer, Node, list[str]], str]] = {
    "conv": _conv,
    "batch_norm": _batch_norm,
    "relu": _relu,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "mean": _mean,
    "concat": _concat,
    "pad": _pad,
    "slice": _slice,
    "add": _elementwise("Add"),
    "sub": _elementwise("Sub"),
    "mul": _elementwise("Mul"),
    "div": _elementwise("Div"),
}
