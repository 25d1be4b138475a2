"""The operators of ONNX that work on height and width: pools, means and padding."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from transfer.weights.onnx import windows
from transfer.weights.onnx.reading import LARGEST_SIDE, SPATIAL, Data, OnnxNode, UnsupportedNode
from transfer.weights.onnx.windows import NO_PADS, Window, described

# What all windows of a file take, written out; no network comes near it.
MOST_TAPS = 1 << 21
# Exporters write minus infinity as the least float too.
LOWEST = -3e38
SAME = (b"SAME_UPPER", b"SAME_LOWER")


def windows_of(node: OnnxNode, data: Data, kernel: Sequence[int], value: float = 0.0) -> tuple[Window, Window]:
    """The window of a convolution or pool along rows and columns; `value` is what padding by a node must be."""
    if data.zeros != NO_PADS and data.value != value:
        text = f"{data.padded_by} pads what {node.title} takes with {data.value:g}: no model here does that"
        raise UnsupportedNode(text)
    mode, ceil_mode = node.attributes.get("auto_pad", b"NOTSET"), bool(node.attributes.get("ceil_mode"))
    strides, dilations = node.attributes.get("strides", (1, 1)), node.attributes.get("dilations", (1, 1))
    pads = [0] * 4 if mode == b"VALID" else node.attributes.get("pads", [0] * 4)
    if (len(kernel), len(strides), len(dilations), len(pads)) != (2, 2, 2, 4):
        raise node.problem("has a kernel, strides, dilations or pads of other than height and width")
    pair = []
    for i, side in enumerate(SPATIAL):
        around, size = (pads[i], pads[i + 2]), data.sizes[side]
        window = Window(size, kernel[i], strides[i], dilations[i], data.zeros[i], around, ceil_mode)
        smallest, largest = min(size, kernel[i], strides[i], dilations[i]), max(size, kernel[i] * dilations[i])
        if smallest < 1 or max(largest, *window.zeros, *around) > LARGEST_SIDE or min(*window.zeros, *around) < 0:
            raise node.problem("has a window, padding or side of no network")
        given = size + sum(window.zeros)
        if mode in SAME:
            around = windows.same_pads(given, kernel[i], strides[i], dilations[i], upper=mode == SAME[0])
            window = dataclasses.replace(window, pads=around)
        node.graph.taps += window.outputs * window.kernel
        if node.graph.taps > MOST_TAPS:
            raise UnsupportedNode(f"{node.title}: the windows up to here are those of no network")
        if not window.outputs:
            raise UnsupportedNode(f"{node.title}: its window of {kernel[i]} does not fit into a side of {given}")
        if value:  # minus infinity beside a map is as padding
            low, high = (zeros + pads for zeros, pads in zip(window.zeros, window.pads, strict=True))
            window = dataclasses.replace(window, zeros=(0, 0), pads=(low, high))
        pair.append(window)
    return pair[0], pair[1]


def _pool(node: OnnxNode, data: Data, op: str, taken: Sequence[Any], text: str = "") -> Data:
    """The output of a max-pool or an average of `data`; `taken` along rows and columns."""
    rows, columns = map(len, taken)
    size = (data.sizes["h"], data.sizes["w"])
    text = text or f"to {rows}x{columns} pixels"
    position = node.graph.add_pool(op, node.title_with(data), data.unit, taken, size, text)
    return Data(position, {**data.sizes, "h": rows, "w": columns}, data.axes, turned_by=data.turned_by)


def pad(node: OnnxNode) -> Data:
    """Values at the sides, which the next convolution or pool counts as its own."""
    data = node.data(padded=True)
    numbers, axes = node.integers(1, "pads") or [], node.integers(3)
    pairs = list(zip(numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :], strict=True))
    sides = dict(zip(range(len(data.axes)) if axes is None else axes, pairs, strict=True))
    given = node.constant(2)
    value = node.attributes.get("value", 0.0) if given is None else float(given.reshape(()))
    value = -np.inf if value <= LOWEST else value
    added = {data.axes[axis]: pair for axis, pair in sides.items() if any(pair)}
    if not added:
        return data
    is_constant = node.attributes.get("mode", b"constant") == b"constant"
    by_side = [added.pop((side,), (0, 0)) for side in SPATIAL]
    if not is_constant or added or min(map(min, by_side)) < 0 or (data.zeros != NO_PADS and data.value != value):
        raise node.problem("crops, mirrors, or pads other than height and width: no model here does that")
    rows, columns = ((a + low, b + high) for (a, b), (low, high) in zip(data.zeros, by_side, strict=True))
    return dataclasses.replace(data, zeros=(rows, columns), value=value, padded_by=node.title)


def max_pool(node: OnnxNode) -> Data:
    """A max-pool; padding by a node takes part with its value, where minus infinity is as none."""
    data = node.feature_map()
    pair = windows_of(node, data, node.attributes["kernel_shape"], data.value if data.value == -np.inf else 0.0)
    return _pool(node, data, "max_pool", [window.maxima() for window in pair], described(pair))


def picked(node: OnnxNode, data: Data, side: str, positions: Sequence[int]) -> Data:
    """Single rows or columns: what a pool of one pixel gives."""
    taken = [windows.picked(positions if each == side else range(data.sizes[each])) for each in SPATIAL]
    return _pool(node, data, "max_pool", taken)


def average_pool(node: OnnxNode) -> Data:
    """An average pool; padding by a node counts as values."""
    data = node.feature_map()
    pair = windows_of(node, data, node.attributes["kernel_shape"])
    counts = bool(node.attributes.get("count_include_pad", 0))
    text = described(pair, "counted padding" if counts else "padding")
    return _pool(node, data, "average", [window.averages(counts) for window in pair], text)


def global_pool(node: OnnxNode, op: str) -> Data:
    """A max-pool or an average with a window as large as the map."""
    data = node.feature_map(padded=False)
    sizes = [data.sizes[side] for side in SPATIAL]
    whole = [windows.adaptive(size, 1) if op == "average" else (tuple(range(size)),) for size in sizes]
    return _pool(node, data, op, whole)


def reduce_mean(node: OnnxNode) -> Data:
    """A mean over height, width or both."""
    data = node.data()
    rank = len(data.axes)
    axes = [axis % rank for axis in node.integers(1, "axes") or range(rank)]
    over = {side for axis in axes for side in data.wide(axis)}
    if over - set(SPATIAL):
        raise node.problem("takes a mean over other than height and width")
    cells = {side: 1 if side in over else data.sizes[side] for side in SPATIAL}
    pooled = _pool(node, data, "average", [windows.adaptive(data.sizes[side], cells[side]) for side in SPATIAL])
    if node.attributes.get("keepdims", 1):
        return pooled
    return dataclasses.replace(pooled, axes=tuple(axis for i, axis in enumerate(pooled.axes) if i not in axes))
