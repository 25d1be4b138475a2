"""What each operator of ONNX means among the steps of a graph."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from transfer.weights.onnx import layout
from transfer.weights.onnx.layout import wide
from transfer.weights.onnx.spatial import (
    average_pool,
    global_average,
    global_maximum,
    max_pool,
    pad,
    picked,
    reduce_mean,
    windows_of,
)
from transfer.weights.onnx.steps import Data, NotRead, Reader, Step, Steps, entitled, title
from transfer.weights.onnx.tensors import Constant

Attributes = Mapping[str, Any]

# Of those after the first line none is in a model of ours: a message says where it stands.
FUNCTIONS = {
    **{"Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid"},
    **{name: name for name in ("LRN", "LeakyRelu", "PRelu", "Elu", "Gelu", "HardSwish", "HardSigmoid")},
}
SOFTMAX_LAST_AXIS = 13  # before this version of the operators the axis was 1 where none was given


def _passing(steps: Steps, node: Any, attributes: Attributes) -> Data:
    return steps.data(node, padded=True)


def _cast(steps: Steps, node: Any, attributes: Attributes) -> Data:
    """To another kind of real numbers; whole numbers would round."""
    from onnx import TensorProto

    real = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    if attributes.get("to", TensorProto.FLOAT) not in real:
        raise NotRead(f"{title(node)} makes other than real numbers of the images' values")
    return steps.data(node, padded=True)


def _cast_like(steps: Steps, node: Any, attributes: Attributes) -> Data | Constant:
    value = steps.value(node.input[0])
    if isinstance(value, Constant):
        return value  # of the images' type
    other = steps.value(node.input[1])
    if isinstance(other, Constant) and other.array().dtype.kind in "biu":
        raise NotRead(f"{title(node)} makes other than real numbers of the images' values")
    return steps.data(node, padded=True)


def _dropout(steps: Steps, node: Any, attributes: Attributes) -> Data:
    training = steps.constant(node, 2)
    if training is not None and training.any():
        raise NotRead(f"{title(node)} is exported in training mode")
    return steps.data(node, padded=True)


def _shape(steps: Steps, node: Any, attributes: Attributes) -> Constant:
    sides = steps.shape(steps.data(node, padded=True))[attributes.get("start", 0) : attributes.get("end")]
    return Constant(lambda: np.array(sides, np.int64))


def _turned(data: Data, node: Any) -> str:
    return f"{data.turned_by}, {title(node)}" if data.turned_by else title(node)


def _rearranged(steps: Steps, node: Any, data: Data, wanted: tuple[int, ...]) -> Data:
    axes = layout.reshaped(data.axes, steps.sizes(data), wanted)
    if axes is None:
        raise NotRead(f"{title(node)} mixes the axes of a map: {steps.shape(data)} to {wanted}")
    return dataclasses.replace(data, axes=axes, turned_by=_turned(data, node))


def _flatten(steps: Steps, node: Any, attributes: Attributes) -> Data:
    data = steps.data(node)
    sides, axis = steps.shape(data), attributes.get("axis", 1)
    return _rearranged(steps, node, data, (int(np.prod(sides[:axis])), int(np.prod(sides[axis:]))))


def _reshape(steps: Steps, node: Any, attributes: Attributes) -> Data:
    data = steps.data(node)
    wanted = steps.whole(node, 1, attributes.get("shape")) or []
    allow_zero = bool(attributes.get("allowzero", 0))
    return _rearranged(steps, node, data, layout.resolved(wanted, steps.shape(data), allow_zero))


def _squeeze(steps: Steps, node: Any, attributes: Attributes) -> Data:
    data = steps.data(node)
    which = steps.whole(node, 1, attributes.get("axes"))
    if which is not None and any(steps.shape(data)[axis] != 1 for axis in which):
        raise NotRead(f"{title(node)} takes axes away that have more than one position")
    return dataclasses.replace(data, axes=layout.squeezed(data.axes, steps.sizes(data), which))


def _unsqueeze(steps: Steps, node: Any, attributes: Attributes) -> Data:
    data = steps.data(node)
    which = steps.whole(node, 1, attributes.get("axes")) or []
    return dataclasses.replace(data, axes=layout.unsqueezed(data.axes, which))


def _transpose(steps: Steps, node: Any, attributes: Attributes) -> Data:
    data = steps.data(node, padded=True)
    order = attributes.get("perm", tuple(reversed(range(len(data.axes)))))
    return dataclasses.replace(data, axes=tuple(data.axes[i] for i in order), turned_by=_turned(data, node))


def _function(steps: Steps, node: Any, attributes: Attributes) -> Data:
    return steps.put(steps.data(node), FUNCTIONS[node.op_type], node)


def _softmax(steps: Steps, node: Any, attributes: Attributes) -> Data:
    data = steps.data(node)
    axis = attributes.get("axis", -1 if steps.opsets.get("", 0) >= SOFTMAX_LAST_AXIS else 1)
    return steps.put(data, "softmax" if data.axes[axis] == ("c",) else "softmax over another axis", node)


def _clip(steps: Steps, node: Any, attributes: Attributes) -> Data:
    low, high = (attributes.get(name, steps.constant(node, i)) for i, name in ((1, "min"), (2, "max")))
    low, high = -np.inf if low is None else float(low), np.inf if high is None else float(high)
    # exporters write "no limit" as the largest float too
    op = {(0.0, np.inf): "relu", (0.0, 6.0): "relu6"}.get((low, high if high < 3e38 else np.inf), "clip")
    return steps.put(steps.data(node), op, node)


def _conv(steps: Steps, node: Any, attributes: Attributes) -> Data:
    kernel, bias, groups = steps.weight(node, 1), steps.constant(node, 2), attributes.get("group", 1)
    if kernel.ndim != 4:
        raise NotRead(f"{title(node)} has a kernel of shape {kernel.shape}, not (out, in, height, width)")
    data, sizes = steps.feature_map(node)
    if kernel.shape[1] * groups != sizes["c"]:
        raise NotRead(f"{title(node)} takes {kernel.shape[1] * groups} channels, and is given {sizes['c']}")
    rows, columns = windows_of(steps, node, attributes, data, kernel.shape[2:])
    about = dict(windows=(rows, columns), rows=rows.convolved(), columns=columns.convolved(), groups=groups)
    after = dict(sizes, c=kernel.shape[0], h=rows.outputs, w=columns.outputs)
    return steps.add(Step("conv", entitled(node, data), (data.step,), _there(kernel=kernel, bias=bias), about, after))


def _there(**weights: np.ndarray | None) -> dict[str, np.ndarray]:
    return {name: array for name, array in weights.items() if array is not None}


def _gemm(steps: Steps, node: Any, attributes: Attributes) -> Data:
    kernel, bias = steps.weight(node, 1), steps.constant(node, 2)
    if attributes.get("transA", 0) or kernel.ndim != 2:
        raise NotRead(f"{title(node)} is no dense layer (transA, or a kernel of shape {kernel.shape})")
    kernel = kernel.T if attributes.get("transB", 0) else kernel
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    if (alpha, beta) != (1.0, 1.0):
        kernel, bias = kernel * alpha, None if bias is None else bias * beta
    return _dense(steps, node, kernel, None if bias is None else np.broadcast_to(bias.ravel(), kernel.shape[1:]))


def _matmul(steps: Steps, node: Any, attributes: Attributes) -> Data:
    kernel = steps.weight(node, 1)
    if kernel.ndim != 2:
        raise NotRead(f"{title(node)} has a kernel of shape {kernel.shape}, not (in, out)")
    return _dense(steps, node, kernel, None)


def _dense(steps: Steps, node: Any, kernel: np.ndarray, bias: np.ndarray | None) -> Data:
    """Of rows: one feature map each, whose channels come first or last where it is flattened."""
    data = steps.data(node)
    sizes = steps.sizes(data)
    *others, last = (wide(axis, sizes) for axis in data.axes)
    orders = {first: tuple(side for side in each if sizes[side] > 1) for first, each in ((True, "chw"), (False, "hwc"))}
    if any(set(axis) - {"b"} for axis in others) or last not in orders.values():
        turned = f" ({data.turned_by})" if data.turned_by else ""
        raise NotRead(f"{title(node)} takes values in another order than a map's{turned}")
    steps.is_consistent = steps.is_consistent and kernel.shape[0] == steps.shape(data)[-1]
    about = dict(channels_first=last == orders[True])
    after = dict(sizes, c=kernel.shape[1], h=1, w=1)
    added = steps.add(Step("dense", title(node), (data.step,), _there(kernel=kernel, bias=bias), about, after))
    return dataclasses.replace(added, axes=(*data.axes[:-1], ("c",)))


def _batch_norm(steps: Steps, node: Any, attributes: Attributes) -> Data:
    weights = {name: steps.weight(node, i) for i, name in enumerate(("scale", "bias", "mean", "var"), 1)}
    data = steps.data(node)
    sizes = steps.sizes(data)
    if set(wide(data.axes[1], sizes)) - {"c"} or weights["scale"].shape != (sizes["c"],):
        raise NotRead(f"{title(node)} normalises another axis than the channels")
    if attributes.get("training_mode", 0):
        raise NotRead(f"{title(node)} is exported in training mode")
    about = dict(epsilon=attributes.get("epsilon", 1e-5))
    added = steps.add(Step("batch_norm", title(node), (data.step,), weights, about, sizes))
    return dataclasses.replace(data, step=added.step)


def _arithmetic(steps: Steps, node: Any, attributes: Attributes) -> Data:
    """With another branch: a join. With a constant: a scale and a shift by channel, joined with a layer's own."""
    values = [steps.value(name) for name in node.input]
    op = node.op_type.lower()
    if all(isinstance(value, Data) for value in values):
        return _join(steps, node, op)
    index = next(i for i, value in enumerate(values) if isinstance(value, Data))
    if op == "div" and index == 1:
        raise NotRead(f"{title(node)} divides by the images' values")
    data, constant = steps.data(node, index), steps.weight(node, 1 - index)
    one, zero = np.ones((), constant.dtype), np.zeros((), constant.dtype)
    constant = _by_channel(steps, node, data, constant)
    if op == "div" and not constant.all():
        raise NotRead(f"{title(node)} divides by zero")
    scale, bias = {
        "add": (one, constant),
        "sub": (one, -constant) if index == 0 else (-one, constant),
        "mul": (constant, zero),
        "div": (one / (constant if op == "div" else one), zero),
    }[op]
    if np.all(scale == 1) and np.all(bias == 0):
        return data
    step = _affine(steps.steps[data.step], data.step, title(node), scale, bias)
    return dataclasses.replace(data, step=steps.add(step).step)


def _join(steps: Steps, node: Any, op: str) -> Data:
    one, other = (steps.data(node, i) for i in (0, 1))
    if steps.shape(one) != steps.shape(other) or not layout.alike(one.axes, other.axes, steps.sizes(one)):
        raise NotRead(f"{title(node)} joins maps of different shapes: {steps.shape(one)} and {steps.shape(other)}")
    step = Step(op, title(node), (one.step, other.step), sizes=steps.sizes(one))
    return dataclasses.replace(one, step=steps.add(step).step)


def _by_channel(steps: Steps, node: Any, data: Data, constant: np.ndarray) -> np.ndarray:
    """(C,) or (): a constant that is one number, or one for each channel."""
    if constant.size == 1 and constant.ndim <= len(data.axes):
        return constant.reshape(())
    sides = (1,) * (len(data.axes) - constant.ndim) + constant.shape
    varies = [axis for axis, size in zip(data.axes, sides, strict=False) if size != 1]
    sizes = steps.sizes(data)
    if len(sides) != len(data.axes) or [wide(a, sizes) for a in varies] != [("c",)] or constant.size != sizes["c"]:
        raise NotRead(f"{title(node)} takes numbers of shape {constant.shape}, which are not one for each channel")
    return constant.reshape(-1)


def _affine(before: Step, position: int, node: str, scale: np.ndarray, bias: np.ndarray) -> Step:
    """`before` with a scale and a shift by output channel in it where it has weights, else a step of its own."""
    if before.op in ("input", "image"):
        image = image_of(before, position)
        weights = dict(image.weights, scale=image.weights["scale"] * scale, bias=image.weights["bias"] * scale + bias)
        return dataclasses.replace(image, node=node, weights=weights, attributes=_since(image, node))
    if before.op not in ("conv", "dense", "affine"):
        return Step("affine", node, (position,), dict(scale=scale, bias=bias), sizes=before.sizes)
    weights = dict(before.weights)
    shift = weights.get("bias", np.zeros((), np.float32)) * scale + bias
    if before.op == "affine":
        return dataclasses.replace(before, weights=dict(scale=weights["scale"] * scale, bias=shift))
    kernel = weights["kernel"]
    if np.any(scale != 1):
        weights["kernel"] = kernel * (scale.reshape(-1, 1, 1, 1) if before.op == "conv" else scale)
    weights["bias"] = np.broadcast_to(shift, (kernel.shape[0 if before.op == "conv" else 1],))
    return dataclasses.replace(before, weights=weights)


def image_of(step: Step, position: int) -> Step:
    """An `input` or `image` as an image: the first with nothing done to it."""
    if step.op == "image":
        return step
    channels = step.sizes["c"]
    weights = dict(channels=np.arange(channels), scale=np.ones(channels), bias=np.zeros(channels))
    return Step("image", step.node, (position,), weights, sizes=step.sizes)


def _since(image: Step, node: str) -> dict[str, Any]:
    """The first node that did something to the images."""
    return dict(since=image.attributes.get("since", node))


def _gather(steps: Steps, node: Any, attributes: Attributes) -> Data:
    positions = steps.weight(node, 1)
    data = steps.data(node)
    axis, sides = attributes.get("axis", 0) % len(data.axes), steps.shape(data)
    if positions.ndim > 1 and np.array_equal(positions.reshape(-1), np.arange(sides[axis])):
        return _rearranged(steps, node, data, (*sides[:axis], *positions.shape, *sides[axis + 1 :]))
    if positions.ndim > 1:
        raise NotRead(f"{title(node)} takes positions of shape {positions.shape} of a map")
    found = _selected(steps, node, data, axis, [int(i) for i in positions.reshape(-1)])
    if positions.ndim == 0:
        return dataclasses.replace(found, axes=found.axes[:axis] + found.axes[axis + 1 :])
    return found


def _slice(steps: Steps, node: Any, attributes: Attributes) -> Data:
    data = steps.data(node)
    starts = steps.whole(node, 1, attributes.get("starts")) or []
    ends = steps.whole(node, 2, attributes.get("ends")) or []
    axes = steps.whole(node, 3, attributes.get("axes")) or list(range(len(starts)))
    strides = steps.whole(node, 4) or [1] * len(starts)
    for start, end, axis, stride in zip(starts, ends, axes, strides, strict=True):
        positions = range(steps.shape(data)[axis])[start : None if stride < 0 and end < -(2**31) else end : stride]
        data = _selected(steps, node, data, axis % len(data.axes), list(positions))
    return data


def _selected(steps: Steps, node: Any, data: Data, axis: int, positions: list[int]) -> Data:
    """Some positions of one axis, in any order: of an image's channels, or of rows or columns."""
    sizes, size = steps.sizes(data), steps.shape(data)[axis]
    if not positions or not all(-size <= i < size for i in positions):
        raise NotRead(f"{title(node)} takes positions that are not there, or none")
    positions = [i % size for i in positions]
    if positions == list(range(size)):
        return data
    side, before = wide(data.axes[axis], sizes), steps.steps[data.step]
    if side in (("h",), ("w",)):
        return picked(steps, node, data, side[0], positions)
    if side != ("c",) or before.op not in ("input", "image"):
        raise NotRead(f"{title(node)} takes a part of what it is given, or turns its order: no model here does that")
    image = image_of(before, data.step)
    weights = {name: array[positions] for name, array in image.weights.items()}
    step = dataclasses.replace(image, node=title(node), weights=weights, sizes={**sizes, "c": len(positions)})
    step = dataclasses.replace(step, attributes=_since(image, title(node)))
    return dataclasses.replace(data, step=steps.add(step).step)


def _concat(steps: Steps, node: Any, attributes: Attributes) -> Data:
    """Of channels, behind one another."""
    parts = [steps.data(node, i) for i in range(len(node.input))]
    first, axis = parts[0], attributes["axis"] % len(parts[0].axes)
    befores = [steps.steps[each.step] for each in parts]
    for each in parts:
        sizes, around = steps.sizes(each), each.axes[:axis] + each.axes[axis + 1 :]
        rest = first.axes[:axis] + first.axes[axis + 1 :]
        same = len(each.axes) == len(first.axes) and steps.shape(each)[:axis] == steps.shape(first)[:axis]
        if not same or steps.shape(each)[axis + 1 :] != steps.shape(first)[axis + 1 :]:
            raise NotRead(f"{title(node)} joins maps of different shapes")
        if each.axes[axis] not in ((), ("c",)) or not layout.alike(around, rest, sizes):
            raise NotRead(f"{title(node)} joins other than channels")
    channels = sum(steps.sizes(each)["c"] for each in parts)
    step = Step("concat", title(node), tuple(each.step for each in parts), sizes={**befores[0].sizes, "c": channels})
    if all(each.op in ("input", "image") for each in befores):
        images = [image_of(before, each.step) for before, each in zip(befores, parts, strict=True)]
        joined = {name: np.concatenate([each.weights[name] for each in images]) for name in images[0].weights}
        about = _since(images[0], title(node))
        step = dataclasses.replace(images[0], node=title(node), weights=joined, attributes=about, sizes=step.sizes)
    axes = (*first.axes[:axis], ("c",), *first.axes[axis + 1 :])
    return dataclasses.replace(first, step=steps.add(step).step, axes=axes)


OPERATORS: dict[str, Reader] = {
    **dict.fromkeys(("Identity",), _passing),
    **dict.fromkeys(FUNCTIONS, _function),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _softmax),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Dropout": _dropout,
    "Shape": _shape,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Pad": pad,
    "Clip": _clip,
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average,
    "GlobalMaxPool": global_maximum,
    "ReduceMean": reduce_mean,
}
