"""What each operator of ONNX means among the steps of a graph."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from transfer.errors import TransferError
from transfer.weights.readers._onnx_steps import NO_PADS, Data, Pads, Reader, Step, Steps, Value, added_pads, title

Attributes = Mapping[str, Any]

# Change no value, or average: how wide is the model's own affair, no weight depends on it.
PASSING = ("Identity", "Cast", "CastLike", "Dropout", "Squeeze", "Unsqueeze")
AVERAGES = ("AveragePool", "GlobalAveragePool", "ReduceMean")
SELECTIONS = ("Gather", "Slice")
# The last line is in no model of ours: a message says where it stands.
FUNCTIONS = {
    **{"Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid", "Softmax": "softmax", "LogSoftmax": "softmax"},
    **{name: name for name in ("LRN", "LeakyRelu", "PRelu", "Elu", "Gelu", "HardSwish", "HardSigmoid", "Resize")},
}
CHANNELS_LAST, CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def _passing(steps: Steps, node: Any, attributes: Attributes) -> Value:
    return steps.value(node.input[0])  # perhaps a constant, cast to the images' type


def _average(steps: Steps, node: Any, attributes: Attributes) -> Data:
    return dataclasses.replace(steps.data(node), pads=NO_PADS)


def _flatten(steps: Steps, node: Any, attributes: Attributes) -> Data:
    data = steps.data(node)
    return data if data.flattened is not None else dataclasses.replace(data, flattened=not data.channels_last)


def _transpose(steps: Steps, node: Any, attributes: Attributes) -> Data:
    data, order = steps.data(node), tuple(attributes.get("perm", ()))
    if order in (CHANNELS_LAST, CHANNELS_FIRST):
        return dataclasses.replace(data, channels_last=order == CHANNELS_LAST)
    return _plain("transpose", steps, node)


def _pad(steps: Steps, node: Any, attributes: Attributes) -> Data:
    """Zeros at the sides, which the next convolution counts as its own."""
    data = steps.data(node)
    pads = attributes.get("pads")
    pads = [int(each) for each in (steps.weight(node, 1) if pads is None else pads)]
    axes = steps.constant(node, 3)
    pairs = list(zip(pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True))
    sides = dict(zip(range(4) if axes is None else (int(axis) % 4 for axis in axes), pairs, strict=True))
    height, width = (1, 2) if data.channels_last else (2, 3)
    elsewhere = any(any(pair) for axis, pair in sides.items() if axis not in (height, width))
    if attributes.get("mode", b"constant") != b"constant" or elsewhere:
        return _plain("pad", steps, node)
    return dataclasses.replace(data, pads=added_pads(data.pads, (sides.get(height, (0, 0)), sides.get(width, (0, 0)))))


def _plain(op: str, steps: Steps, node: Any, **attributes: Any) -> Data:
    """A step without weights; its inputs that depend on the images, in their order."""
    sources = [value for name in node.input if name and isinstance(value := steps.value(name), Data)]
    added = steps.add(Step(op, title(node), tuple(each.step for each in sources), {}, attributes))
    return dataclasses.replace(added, channels_last=sources[0].channels_last)


def _function(steps: Steps, node: Any, attributes: Attributes) -> Data:
    source = steps.data(node)
    added = _plain(FUNCTIONS[node.op_type], steps, node)
    return dataclasses.replace(source, step=added.step)  # a function by element leaves flattened what is


def _clip(steps: Steps, node: Any, attributes: Attributes) -> Data:
    low, high = (attributes.get(name, steps.constant(node, i)) for i, name in ((1, "min"), (2, "max")))
    low, high = -np.inf if low is None else float(low), np.inf if high is None else float(high)
    # exporters write "no limit" as the largest float too
    op = {(0.0, np.inf): "relu", (0.0, 6.0): "relu6"}.get((low, high if high < 3e38 else np.inf), "clip")
    return dataclasses.replace(steps.data(node), step=_plain(op, steps, node).step)


def _conv(steps: Steps, node: Any, attributes: Attributes) -> Data:
    data = steps.data(node)
    kernel, bias = steps.weight(node, 1), steps.constant(node, 2)
    if kernel.ndim != 4:
        raise TransferError(f"{title(node)} has a kernel of shape {kernel.shape}, not (out, in, height, width)")
    steps.named[node.input[1]] = kernel
    if bias is not None:
        steps.named[node.input[2]] = bias
    strides = tuple(attributes.get("strides", (1, 1)))
    dilations = tuple(attributes.get("dilations", (1, 1)))
    padding = _padding(attributes, kernel.shape[2:], strides, dilations)
    about = dict(
        strides=strides,
        dilations=dilations,
        groups=attributes.get("group", 1),
        padding=None if padding is None else added_pads(data.pads, padding),
    )
    return steps.add(Step("conv", title(node), (data.step,), _there(kernel=kernel, bias=bias), about))


def _there(**weights: np.ndarray | None) -> dict[str, np.ndarray]:
    return {name: array for name, array in weights.items() if array is not None}


def _padding(
    attributes: Attributes, window: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> Pads | None:
    """None for `SAME` with a stride, which depends on the size of the image."""
    mode = attributes.get("auto_pad", b"NOTSET")
    if mode == b"VALID":
        return NO_PADS
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        if set(strides) != {1}:
            return None
        totals = [dilation * (side - 1) for side, dilation in zip(window, dilations, strict=True)]
        halves = [(total // 2, total - total // 2) for total in totals]
        rows, columns = (half if mode == b"SAME_UPPER" else half[::-1] for half in halves)
        return rows, columns
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    return (top, bottom), (left, right)


def _gemm(steps: Steps, node: Any, attributes: Attributes) -> Data:
    kernel, bias = steps.weight(node, 1), steps.constant(node, 2)
    if attributes.get("transA", 0) or kernel.ndim != 2:
        raise TransferError(f"{title(node)} is no dense layer (transA, or a kernel of shape {kernel.shape})")
    kernel = kernel.T if attributes.get("transB", 0) else kernel
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    if (alpha, beta) == (1.0, 1.0):
        steps.named[node.input[1]] = kernel.T
        if bias is not None:
            steps.named[node.input[2]] = bias
    else:
        kernel, bias = kernel * alpha, None if bias is None else bias * beta
    return _dense(steps, node, kernel, None if bias is None else np.broadcast_to(bias.ravel(), kernel.shape[1:]))


def _matmul(steps: Steps, node: Any, attributes: Attributes) -> Data:
    kernel = steps.weight(node, 1)
    if kernel.ndim != 2:
        raise TransferError(f"{title(node)} has a kernel of shape {kernel.shape}, not (in, out)")
    steps.named[node.input[1]] = kernel.T
    return _dense(steps, node, kernel, None)


def _dense(steps: Steps, node: Any, kernel: np.ndarray, bias: np.ndarray | None) -> Data:
    data = steps.data(node)
    about = dict(channels_first=data.flattened is True)
    return steps.add(Step("dense", title(node), (data.step,), _there(kernel=kernel, bias=bias), about))


def _batch_norm(steps: Steps, node: Any, attributes: Attributes) -> Data:
    names = ("scale", "bias", "mean", "var")
    weights = {name: steps.weight(node, i) for i, name in enumerate(names, 1)}
    steps.named |= dict(zip(node.input[1:5], weights.values(), strict=True))
    about = dict(epsilon=attributes.get("epsilon", 1e-5))
    return steps.add(Step("batch_norm", title(node), (steps.data(node).step,), weights, about))


def _arithmetic(steps: Steps, node: Any, attributes: Attributes) -> Data:
    """With another branch: a join. With a constant: a scale and a shift by channel, joined with a layer's own."""
    values = [steps.value(name) for name in node.input]
    op = node.op_type.lower()
    if all(isinstance(value, Data) for value in values):
        return _plain(op, steps, node)
    index = next(i for i, value in enumerate(values) if isinstance(value, Data))
    data, constant = steps.data(node, index), steps.weight(node, 1 - index)
    if op == "div" and index == 1:
        return _plain(op, steps, node)
    one, zero = np.ones((), constant.dtype), np.zeros((), constant.dtype)
    constant = _by_channel(constant)
    scale, bias = {
        "add": (one, constant),
        "sub": (one, -constant) if index == 0 else (-one, constant),
        "mul": (constant, zero),
        "div": (one / constant, zero),
    }[op]
    step = _affine(steps.steps[data.step], data.step, title(node), scale, bias)
    return dataclasses.replace(data, step=steps.add(step).step)


def _by_channel(constant: np.ndarray) -> np.ndarray:
    """(C,) or () where all axes but one, or all, have size 1."""
    if constant.size == 1:
        return constant.reshape(())
    return constant.reshape(-1) if max(constant.shape) == constant.size else constant


def _affine(before: Step, position: int, node: str, scale: np.ndarray, bias: np.ndarray) -> Step:
    """`before` with a scale and a shift by output channel in it where it has weights, else a step of its own."""
    if before.op not in ("conv", "dense", "affine") or max(scale.ndim, bias.ndim) > 1:
        return Step("affine", node, (position,), dict(scale=scale, bias=bias))
    weights = dict(before.weights)
    shift = weights.get("bias", np.zeros((), np.float32)) * scale + bias
    if before.op == "affine":
        return dataclasses.replace(before, weights=dict(scale=weights["scale"] * scale, bias=shift))
    kernel = weights["kernel"]
    if np.any(scale != 1):
        weights["kernel"] = kernel * (scale.reshape(-1, 1, 1, 1) if before.op == "conv" else scale)
    weights["bias"] = np.broadcast_to(shift, (kernel.shape[0 if before.op == "conv" else 1],))
    return dataclasses.replace(before, weights=weights)


def _max_pool(steps: Steps, node: Any, attributes: Attributes) -> Data:
    kernel = tuple(attributes["kernel_shape"])
    return _plain("max_pool", steps, node, kernel=kernel, strides=tuple(attributes.get("strides", (1, 1))))


def _named(op: str) -> Callable[[Steps, Any, Attributes], Data]:
    return lambda steps, node, attributes: _plain(op, steps, node)


OPERATORS: dict[str, Reader] = {
    **dict.fromkeys(PASSING, _passing),
    **dict.fromkeys(AVERAGES, _average),
    **dict.fromkeys(("Flatten", "Reshape"), _flatten),
    **dict.fromkeys(FUNCTIONS, _function),
    **dict.fromkeys(SELECTIONS, _named("select")),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
    "Transpose": _transpose,
    "Pad": _pad,
    "Clip": _clip,
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "Concat": _named("concat"),
    "MaxPool": _max_pool,
    "GlobalMaxPool": _named("global_max_pool"),
}
