"""What the axes of a tensor in an ONNX graph are: those of a feature map, however turned, joined and taken apart."""

import math
from collections.abc import Mapping, Sequence

# Each axis of a tensor: which sides of the feature map it runs over, the outermost first. `b` batch, `c` channels,
# `h` height, `w` width.
Axes = tuple[tuple[str, ...], ...]
Sizes = Mapping[str, int]
CHANNELS_FIRST: Axes = (("b",), ("c",), ("h",), ("w",))
CHANNELS_LAST: Axes = (("b",), ("h",), ("w",), ("c",))
SPATIAL = ("h", "w")


def wide(axis: Sequence[str], sizes: Sizes) -> tuple[str, ...]:
    """The sides of an axis that have more than one position: the others can stand anywhere."""
    return tuple(side for side in axis if sizes[side] > 1)


def shape(axes: Axes, sizes: Sizes) -> tuple[int, ...]:
    """The tensor's shape."""
    return tuple(math.prod(sizes[side] for side in axis) for axis in axes)


def reshaped(axes: Axes, sizes: Sizes, wanted: Sequence[int]) -> Axes | None:
    """The axes of a tensor reshaped to `wanted`; None where that mixes positions of several sides."""
    if tuple(wanted) == shape(axes, sizes):
        return axes
    sides = [side for axis in axes for side in wide(axis, sizes)]
    joined: list[tuple[str, ...]] = []
    for size in wanted:
        axis: list[str] = []
        while sides and math.prod(sizes[side] for side in axis) < size:
            axis.append(sides.pop(0))
        if math.prod(sizes[side] for side in axis) != size:
            return None
        joined.append(tuple(axis))
    return None if sides else tuple(joined)
