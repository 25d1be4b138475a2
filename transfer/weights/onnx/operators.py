"""What each operator of ONNX means among the units of a graph."""

import dataclasses
import functools
import math

import numpy as np

from transfer.weights.onnx import spatial
from transfer.weights.onnx.images import scale_and_shift
from transfer.weights.onnx.reading import Constant, Data, OnnxNode, Operator
from transfer.weights.onnx.units import Norm, Unit, batch_norm, convolution, dense

# Of those after the first line none is in a model of ours: a message says where it stands.
FUNCTIONS = {
    **{"Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid"},
    **{name: name for name in ("LRN", "LeakyRelu", "PRelu", "Elu", "Gelu", "HardSwish", "HardSigmoid")},
}
SOFTMAX_LAST_AXIS = 13  # before this version of the operators the axis was 1 where none was given
MOST_CHANNELS = 1 << 20
NO_FLOATS = "makes other than real numbers of the images' values"


def _cast(node: OnnxNode) -> Data:
    """A cast to another kind of real numbers; whole numbers would round."""
    from onnx import TensorProto

    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    if node.attributes.get("to", TensorProto.FLOAT) not in floats:
        raise node.problem(NO_FLOATS)
    return node.data(padded=True)


def _cast_like(node: OnnxNode) -> Data | Constant:
    value, like = (node.graph.value(name) for name in node.inputs)
    if callable(value):
        return value  # of the images' type
    if callable(like) and like().dtype.kind in "biu":
        raise node.problem(NO_FLOATS)
    return node.data(padded=True)


def _dropout(node: OnnxNode) -> Data:
    training = node.constant(2)
    if training is not None and training.any():
        raise node.problem("is exported in training mode")
    return node.data(padded=True)


def _shape(node: OnnxNode) -> Constant:
    shape = node.data(padded=True).shape[node.attributes.get("start", 0) : node.attributes.get("end")]
    return lambda: np.array(shape, np.int64)


def _flatten(node: OnnxNode) -> Data:
    data, axis = node.data(), node.attributes.get("axis", 1)
    return node.reshaped(data, (math.prod(data.shape[:axis]), math.prod(data.shape[axis:])))


def _reshape(node: OnnxNode) -> Data:
    """A reshape, with its 0 (as before) and -1 (what is left) in numbers."""
    data, wanted = node.data(), node.integers(1, "shape") or []
    before = data.shape
    if not node.attributes.get("allowzero", 0):
        wanted = [before[i] if size == 0 and i < len(before) else size for i, size in enumerate(wanted)]
    left = math.prod(before) // max(math.prod(size for size in wanted if size != -1), 1)
    return node.reshaped(data, [left if size == -1 else size for size in wanted])


def _squeeze(node: OnnxNode) -> Data:
    data, axes = node.data(), node.integers(1, "axes")
    if axes is not None and any(data.shape[axis] != 1 for axis in axes):
        raise node.problem("takes axes away that have more than one position")
    rank = len(data.axes)
    gone = {i for i in range(rank) if data.shape[i] == 1} if axes is None else {axis % rank for axis in axes}
    return dataclasses.replace(data, axes=tuple(axis for i, axis in enumerate(data.axes) if i not in gone))


def _unsqueeze(node: OnnxNode) -> Data:
    data, positions = node.data(), node.integers(1, "axes") or []
    rank = len(data.axes) + len(positions)
    added, rest = {i % rank for i in positions}, iter(data.axes)
    return dataclasses.replace(data, axes=tuple(() if i in added else next(rest) for i in range(rank)))


def _transpose(node: OnnxNode) -> Data:
    data = node.data(padded=True)
    order = node.attributes.get("perm", reversed(range(len(data.axes))))
    return node.turning(data, tuple(data.axes[i] for i in order))


def _softmax(node: OnnxNode) -> Data:
    axis = node.attributes.get("axis", -1 if node.graph.version >= SOFTMAX_LAST_AXIS else 1)
    return node.step("softmax" if node.data().axes[axis] == ("c",) else "softmax over another axis")


def _clip(node: OnnxNode) -> Data:
    low, high = (node.attributes.get(name, node.constant(i)) for i, name in ((1, "min"), (2, "max")))
    low, high = -np.inf if low is None else float(low), np.inf if high is None else float(high)
    # exporters write "no limit" as the largest float too
    return node.step({(0.0, np.inf): "relu", (0.0, 6.0): "relu6"}.get((low, high if high < 3e38 else np.inf), "clip"))


def _conv(node: OnnxNode) -> Data:
    kernel, bias, groups = node.weight(1), node.constant(2), node.attributes.get("group", 1)
    if kernel.ndim != 4:
        raise node.problem(f"has a kernel of shape {kernel.shape}, not (out, in, height, width)")
    data = node.feature_map()
    features, channels, *sides = kernel.shape
    if channels * groups != data.sizes["c"]:
        raise node.problem(f"takes {channels * groups} channels, and is given {data.sizes['c']}")
    rows, columns = spatial.windows_of(node, data, sides)
    parts = dict(kernel=kernel.transpose(2, 3, 1, 0), bias=bias)
    unit = convolution(node.title_with(data), (data.unit,), (rows, columns), (channels, features, groups), **parts)
    return Data(node.graph.add(unit), {**data.sizes, "c": features, "h": rows.outputs, "w": columns.outputs})


def _dense(node: OnnxNode) -> Data:
    """A dense layer of rows: one feature map each, whose channels come first or last where it is flattened."""
    kernel, bias = node.weight(1), node.constant(2)
    if node.attributes.get("transA", 0) or kernel.ndim != 2:
        raise node.problem(f"is no dense layer (transA, or a kernel of shape {kernel.shape})")
    kernel = kernel.T if node.attributes.get("transB", 0) else kernel
    alpha, beta = node.attributes.get("alpha", 1.0), node.attributes.get("beta", 1.0)
    if (alpha, beta) != (1.0, 1.0):
        kernel, bias = kernel * alpha, None if bias is None else bias * beta
    bias = None if bias is None else np.broadcast_to(bias.ravel(), kernel.shape[1:])
    data = node.data()
    *others, last = (data.wide(axis) for axis in range(len(data.axes)))
    first_or_last = [tuple(side for side in order if data.sizes[side] > 1) for order in ("chw", "hwc")]
    if any(set(axis) - {"b"} for axis in others) or last not in first_or_last:
        turned = f" ({data.turned_by})" if data.turned_by else ""
        raise node.problem(f"takes values in another order than a map's{turned}")
    node.graph.is_consistent = node.graph.is_consistent and kernel.shape[0] == data.shape[-1]
    parts = dict(kernel=kernel, bias=bias, channels_first=last == first_or_last[0])
    position = node.graph.add(dense(node.title, (data.unit,), kernel.shape, **parts))
    return Data(position, {**data.sizes, "c": kernel.shape[1], "h": 1, "w": 1}, (*data.axes[:-1], ("c",)))


def _batch_norm(node: OnnxNode) -> Data:
    weights = {name: node.weight(i) for i, name in enumerate(("scale", "bias", "mean", "var"), 1)}
    data = node.data()
    if set(data.wide(1)) - {"c"} or weights["scale"].shape != (data.sizes["c"],):
        raise node.problem("normalises another axis than the channels")
    if node.attributes.get("training_mode", 0) or node.outputs > 1:  # before version 14 only the outputs say it
        raise node.problem("is exported in training mode")
    norm, before = Norm(weights, node.attributes.get("epsilon", 1e-5)), node.graph.units[data.unit]
    view = node.graph.view(data)
    if view is not None:
        return node.graph.viewed(node, data, view.then(*norm.scale_and_shift))
    joins = before.op in ("conv", "dense") and "norm" not in before.parts
    unit = before.having(norm=norm) if joins else batch_norm(node.title, (data.unit,), data.sizes["c"], norm=norm)
    return dataclasses.replace(data, unit=node.graph.add(unit))


def _arithmetic(node: OnnxNode) -> Data:
    """A join with another branch; with a constant, a scale and a shift by channel, joined with a layer's own."""
    values = [node.graph.value(name) for name in node.inputs]
    op = node.op.lower()
    if all(isinstance(value, Data) for value in values):
        first, second = node.data(0), node.data(1)
        if first.shape != second.shape or any(first.wide(i) != second.wide(i) for i in range(len(first.axes))):
            raise node.problem(f"joins maps of different shapes: {first.shape} and {second.shape}")
        unit = Unit(op, node.title, (first.unit, second.unit))
        return dataclasses.replace(first, unit=node.graph.add(unit))
    index = next(i for i, value in enumerate(values) if isinstance(value, Data))
    if op == "div" and index == 1:
        raise node.problem("divides by the images' values")
    data = node.data(index)
    constant = _by_channel(node, data, node.weight(1 - index))
    if op == "div" and not constant.all():
        raise node.problem("divides by zero")
    scale, shift = scale_and_shift(op, constant, is_first=index == 1)  # type: ignore[misc]
    if np.all(scale == 1) and np.all(shift == 0):
        return data
    view = node.graph.view(data)
    if view is not None:
        return node.graph.viewed(node, data, view.then(scale, shift))
    return dataclasses.replace(data, unit=node.graph.add(_scaled(node, data, scale, shift)))


def _scaled(node: OnnxNode, data: Data, scale: np.ndarray, shift: np.ndarray) -> Unit:
    """The layer before scaled and shifted by channel, or a batch norm that does it."""
    before, channels = node.graph.units[data.unit], data.sizes["c"]
    if "norm" in before.parts:
        weights = before.parts["norm"].weights
        weights = {**weights, "scale": weights["scale"] * scale, "bias": weights["bias"] * scale + shift}
        return before.having(norm=Norm(weights, before.parts["norm"].epsilon))
    if before.op in ("conv", "dense"):
        kernel, bias = before.parts["kernel"], before.parts["bias"]
        bias = (np.zeros((), np.float32) if bias is None else bias) * scale + shift
        kernel = kernel * scale if np.any(scale != 1) else kernel
        return before.having(kernel=kernel, bias=np.broadcast_to(bias, kernel.shape[-1:]))
    weights = dict(scale=scale, bias=shift, mean=np.zeros(()), var=np.ones(()))
    norm = Norm({name: np.broadcast_to(array, (channels,)) for name, array in weights.items()}, 0.0)
    return batch_norm(node.title, (data.unit,), channels, norm=norm)


def _by_channel(node: OnnxNode, data: Data, constant: np.ndarray) -> np.ndarray:
    """(C,) or (): a constant that is one number, or one for each channel."""
    if constant.size == 1 and constant.ndim <= len(data.axes):
        return constant.reshape(())
    shape = (1,) * (len(data.axes) - constant.ndim) + constant.shape
    varies = [data.wide(i) for i, size in enumerate(shape[: len(data.axes)]) if size != 1]
    if len(shape) != len(data.axes) or varies != [("c",)] or constant.size != data.sizes["c"]:
        raise node.problem(f"takes numbers of shape {constant.shape}, not one for each channel")
    return constant.reshape(-1)


def _gather(node: OnnxNode) -> Data:
    positions, data = node.weight(1), node.data()
    axis, shape = node.attributes.get("axis", 0) % len(data.axes), data.shape
    if positions.ndim > 1 and np.array_equal(positions.reshape(-1), np.arange(shape[axis])):
        return node.reshaped(data, (*shape[:axis], *positions.shape, *shape[axis + 1 :]))
    if positions.ndim > 1:
        raise node.problem(f"takes positions of shape {positions.shape} of a map")
    taken = selected(node, data, axis, [int(i) for i in positions.reshape(-1)])
    axes = taken.axes if positions.ndim else taken.axes[:axis] + taken.axes[axis + 1 :]
    return dataclasses.replace(taken, axes=axes)


def _gather_nd(node: OnnxNode) -> Data:
    """A gather along the first axis, as PyTorch's exporter writes `x[:, [2, 1, 0]]` between two transposes."""
    positions = node.weight(1)
    if node.attributes.get("batch_dims", 0) or positions.ndim != 2 or positions.shape[1] != 1:
        raise node.problem("takes other than positions of one axis")
    return selected(node, node.data(), 0, [int(i) for i in positions[:, 0]])


def _slice(node: OnnxNode) -> Data:
    data, starts, ends = node.data(), node.integers(1, "starts") or [], node.integers(2, "ends") or []
    axes = node.integers(3, "axes") or range(len(starts))
    strides = node.integers(4) or [1] * len(starts)
    for start, end, axis, stride in zip(starts, ends, axes, strides, strict=True):
        positions = range(data.shape[axis])[start : None if stride < 0 and end < -(2**31) else end : stride]
        data = selected(node, data, axis % len(data.axes), list(positions))
    return data


def selected(node: OnnxNode, data: Data, axis: int, positions: list[int]) -> Data:
    """Some positions of one axis, in any order: of an image's channels, a dense layer's outputs, rows or columns."""
    size = data.shape[axis]
    if not positions or not all(-size <= i < size for i in positions):
        raise node.problem("takes positions that are not there, or none")
    positions = [i % size for i in positions]
    if positions == list(range(size)):
        return data
    side, view = data.wide(axis), node.graph.view(data)
    if side in (("h",), ("w",)):
        return spatial.picked(node, data, side[0], positions)
    before = node.graph.units[data.unit]
    if side == ("c",) and before.op == "dense" and "norm" not in before.parts:
        bias = None if before.parts["bias"] is None else before.parts["bias"][positions]
        parts = {**before.parts, "kernel": before.parts["kernel"][:, positions], "bias": bias}
        unit = dense(before.name, before.inputs, (before.about[0], len(positions)), **parts)
        return dataclasses.replace(data, unit=node.graph.add(unit), sizes={**data.sizes, "c": len(positions)})
    if side != ("c",) or view is None:
        raise node.problem("takes a part of what it is given, or turns its order: no model here does that")
    return node.graph.viewed(node, data, view.picked(positions))


def _concat(node: OnnxNode) -> Data:
    """A concatenation of channels."""
    parts = [node.data(i) for i in range(len(node.inputs))]
    first, axis = parts[0], node.attributes["axis"] % len(parts[0].axes)
    others = [i for i in range(len(first.axes)) if i != axis]
    for part in parts:
        if len(part.axes) != len(first.axes) or any(part.shape[i] != first.shape[i] for i in others):
            raise node.problem("joins maps of different shapes")
        is_same = all(part.wide(i) == first.wide(i) and "c" not in part.axes[i] for i in others)
        if part.axes[axis] not in ((), ("c",)) or not is_same:
            raise node.problem("joins other than channels")
    channels = sum(part.sizes["c"] for part in parts)
    if channels > MOST_CHANNELS:
        raise node.problem(f"joins {channels} channels: no network has as many")
    views = [view for part in parts if (view := node.graph.view(part)) is not None]
    joined = dataclasses.replace(first, axes=(*first.axes[:axis], ("c",), *first.axes[axis + 1 :]))
    if len(views) == len(parts):
        return node.graph.viewed(node, joined, views[0].joined(views[1:]))
    unit = Unit("concat", node.title, tuple(part.unit for part in parts))
    return dataclasses.replace(joined, unit=node.graph.add(unit), sizes={**first.sizes, "c": channels})


OPERATORS: dict[str, Operator] = {
    **{name: functools.partial(OnnxNode.step, op=op) for name, op in FUNCTIONS.items()},
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
    "Identity": lambda node: node.data(padded=True),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Dropout": _dropout,
    "Shape": _shape,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Pad": spatial.pad,
    "Clip": _clip,
    "Conv": _conv,
    "Gemm": _dense,
    "MatMul": _dense,
    "BatchNormalization": _batch_norm,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Slice": _slice,
    "Concat": _concat,
    "MaxPool": spatial.max_pool,
    "AveragePool": spatial.average_pool,
    "GlobalAveragePool": functools.partial(spatial.global_pool, op="average"),
    "GlobalMaxPool": functools.partial(spatial.global_pool, op="max_pool"),
    "ReduceMean": spatial.reduce_mean,
}
