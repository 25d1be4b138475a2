"""The operators of ONNX that work on height and width: pools, means and padding."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfer.weights.onnx import windows
from transfer.weights.onnx.layout import SPATIAL, wide
from transfer.weights.onnx.steps import LARGEST_SIDE, NO_ZEROS, Data, NotRead, Steps, title
from transfer.weights.onnx.windows import Pads, Shares, Window

Attributes = Mapping[str, Any]
# What all windows of a file take, written out; no network comes near it.
MOST_TAPS = 1 << 21
# Exporters write minus infinity as the least float too.
LOWEST = -3e38


def windows_of(
    steps: Steps,
    node: Any,
    attributes: Attributes,
    data: Data,
    kernel: Sequence[int],
    value: float = 0.0,
) -> tuple[Window, Window]:
    """The window of a convolution or pool along rows and columns; `value` is what padding by a node must be."""
    if data.zeros != NO_ZEROS and data.value != value:
        raise NotRead(f"{data.padded_by} pads what {title(node)} takes with {data.value:g}: no model here does that")
    sizes = steps.sizes(data)
    strides, dilations = attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1))
    low_high = _pads(node, attributes)
    found = []
    for i, side in enumerate(SPATIAL):
        window = Window(
            sizes[side], kernel[i], strides[i], dilations[i], data.zeros[i], (0, 0), bool(attributes.get("ceil_mode"))
        )
        largest = max(window.size, window.kernel * window.dilation, *window.zeros, *(low_high[i] if low_high else ()))
        smallest = min(window.size, window.kernel, window.stride, window.dilation)
        if smallest < 1 or largest > LARGEST_SIDE or min(*window.zeros, *(low_high[i] if low_high else (0,))) < 0:
            raise NotRead(f"{title(node)} has a window, padding or side of no network")
        upper = attributes.get("auto_pad") == b"SAME_UPPER"
        given = window.size + sum(window.zeros)
        pads = low_high[i] if low_high else windows.same_pads(given, kernel[i], strides[i], dilations[i], upper=upper)
        window = dataclasses.replace(window, pads=pads)
        steps.taps += window.outputs * window.kernel
        if steps.taps > MOST_TAPS:
            raise NotRead(f"{title(node)}: the windows up to here are those of no network")
        if not window.outputs:
            raise NotRead(f"{title(node)}: its window of {kernel[i]} does not fit into a side of {given}")
        found.append(window)
    return found[0], found[1]


def _pads(node: Any, attributes: Attributes) -> tuple[Pads, Pads] | None:
    """None for `SAME`."""
    mode = attributes.get("auto_pad", b"NOTSET")
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        return None
    pads = [0] * 4 if mode == b"VALID" else attributes.get("pads", [0] * 4)
    if len(pads) != 4:
        raise NotRead(f"{title(node)} has {len(pads)} pads, not 4")
    top, left, bottom, right = pads
    return (top, bottom), (left, right)


def pad(steps: Steps, node: Any, attributes: Attributes) -> Data:
    """Values at the sides, which the next convolution or pool counts as its own."""
    data = steps.data(node, padded=True)
    numbers = steps.whole(node, 1, attributes.get("pads")) or []
    axes = steps.whole(node, 3)
    pairs = list(zip(numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :], strict=True))
    sides = dict(zip(range(len(data.axes)) if axes is None else axes, pairs, strict=True))
    given = steps.constant(node, 2)
    value = attributes.get("value", 0.0) if given is None else float(given.reshape(()))
    value = -np.inf if value <= LOWEST else value
    added = {data.axes[axis]: pair for axis, pair in sides.items() if any(pair)}
    if not added:
        return data
    constant = attributes.get("mode", b"constant") == b"constant"
    by_side = [added.pop((side,), (0, 0)) for side in SPATIAL]
    if not constant or added or min(map(min, by_side)) < 0 or (data.zeros != NO_ZEROS and data.value != value):
        raise NotRead(f"{title(node)} crops, mirrors, or pads other than height and width: no model here does that")
    rows, columns = ((a + low, b + high) for (a, b), (low, high) in zip(data.zeros, by_side, strict=True))
    return dataclasses.replace(data, zeros=(rows, columns), value=value, padded_by=title(node))


def max_pool(steps: Steps, node: Any, attributes: Attributes) -> Data:
    """Padding by a node takes part with its value: minus infinity is as none."""
    data, _ = steps.feature_map(node)
    kernel = attributes["kernel_shape"]
    as_none = data.value == -np.inf
    pair = windows_of(steps, node, attributes, data, kernel, data.value if as_none else 0.0)
    if as_none:
        pair = (_not_as_values(pair[0]), _not_as_values(pair[1]))
    return _maximum(steps, node, data, pair)


def _not_as_values(window: Window) -> Window:
    low, high = (a + b for a, b in zip(window.zeros, window.pads, strict=True))
    return dataclasses.replace(window, zeros=(0, 0), pads=(low, high))


def _maximum(steps: Steps, node: Any, data: Data, pair: tuple[Window, Window]) -> Data:
    rows, columns = pair
    if rows.greatest() == windows.picked(range(rows.size)) and columns.greatest() == windows.picked(
        range(columns.size)
    ):
        return dataclasses.replace(data, zeros=NO_ZEROS)
    sizes = dict(h=rows.outputs, w=columns.outputs)
    about = dict(windows=pair, rows=rows.greatest(), columns=columns.greatest())
    return steps.put(data, "max_pool", node, sizes, **about)


def global_maximum(steps: Steps, node: Any, attributes: Attributes) -> Data:
    """A window as large as the map."""
    data, sizes = steps.feature_map(node, padded=False)
    return _maximum(steps, node, data, windows_of(steps, node, {}, data, (sizes["h"], sizes["w"])))


def picked(steps: Steps, node: Any, data: Data, side: str, positions: Sequence[int]) -> Data:
    """Single rows or columns: what a pool of one pixel gives."""
    sizes = steps.sizes(data)
    taps = {each: windows.picked(positions if each == side else range(sizes[each])) for each in SPATIAL}
    about = dict(rows=taps["h"], columns=taps["w"])
    return steps.put(data, "max_pool", node, {side: len(positions)}, **about)


def average_pool(steps: Steps, node: Any, attributes: Attributes) -> Data:
    """Padding by a node counts as values."""
    data, _ = steps.feature_map(node)
    pair = windows_of(steps, node, attributes, data, attributes["kernel_shape"])
    counts = bool(attributes.get("count_include_pad", 0))
    rows, columns = (each.averaged(counts) for each in pair)
    return _average(steps, node, data, rows, columns, windows=pair, counts_padding=counts)


def global_average(steps: Steps, node: Any, attributes: Attributes) -> Data:
    """Over the whole map."""
    data, sizes = steps.feature_map(node, padded=False)
    return _average(steps, node, data, windows.mean(sizes["h"]), windows.mean(sizes["w"]))


def reduce_mean(steps: Steps, node: Any, attributes: Attributes) -> Data:
    """Over height, width or both."""
    data = steps.data(node)
    sizes, rank = steps.sizes(data), len(data.axes)
    which = [axis % rank for axis in steps.whole(node, 1, attributes.get("axes")) or range(rank)]
    over = {side for axis in which for side in wide(data.axes[axis], sizes)}
    if over - set(SPATIAL):
        raise NotRead(f"{title(node)} takes a mean over other than height and width")
    rows, columns = (windows.mean(sizes[side]) if side in over else windows.each(sizes[side]) for side in SPATIAL)
    found = _average(steps, node, data, rows, columns)
    if attributes.get("keepdims", 1):
        return found
    return dataclasses.replace(found, axes=tuple(axis for i, axis in enumerate(found.axes) if i not in which))


def _average(steps: Steps, node: Any, data: Data, rows: Shares, columns: Shares, **about: Any) -> Data:
    after = dict(h=len(rows), w=len(columns))
    return steps.put(data, "average", node, after, rows=rows, columns=columns, **about)
