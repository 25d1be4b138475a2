"""What the axes of a tensor in an ONNX graph are: those of a feature map, however turned, joined and taken apart."""

import math
from collections.abc import Mapping, Sequence

# Each axis of a tensor: which sides of the feature map it runs over, the outermost first. `b` batch, `c` channels,
# `h` height, `w` width.
Axes = tuple[tuple[str, ...], ...]
Sizes = Mapping[str, int]
CHANNELS_FIRST: Axes = (("b",), ("c",), ("h",), ("w",))
CHANNELS_LAST: Axes = (("b",), ("h",), ("w",), ("c",))
ROWS: Axes = (("b",), ("c",))
SPATIAL = ("h", "w")


def wide(axis: Sequence[str], sizes: Sizes) -> tuple[str, ...]:
    """The sides of an axis that have more than one position: the others can stand anywhere."""
    return tuple(side for side in axis if sizes[side] > 1)


def shape(axes: Axes, sizes: Sizes) -> tuple[int, ...]:
    """The tensor's shape."""
    return tuple(math.prod(sizes[side] for side in axis) for axis in axes)


def alike(one: Axes, other: Axes, sizes: Sizes) -> bool:
    """Whether two tensors of one shape hold the same position of a map at the same place."""
    return [wide(axis, sizes) for axis in one] == [wide(axis, sizes) for axis in other]


def reshaped(axes: Axes, sizes: Sizes, wanted: Sequence[int]) -> Axes | None:
    """The axes of a tensor reshaped to `wanted`; None where that mixes positions of several sides."""
    if tuple(wanted) == shape(axes, sizes):
        return axes
    sides = [side for axis in axes for side in wide(axis, sizes)]
    found: list[tuple[str, ...]] = []
    for size in wanted:
        axis: list[str] = []
        while sides and math.prod(sizes[side] for side in axis) < size:
            axis.append(sides.pop(0))
        if math.prod(sizes[side] for side in axis) != size:
            return None
        found.append(tuple(axis))
    return None if sides else tuple(found)


def resolved(wanted: Sequence[int], before: Sequence[int], allow_zero: bool = False) -> tuple[int, ...]:
    """A Reshape's sizes with its 0 (as before) and -1 (what is left) in numbers."""
    sides = [before[i] if size == 0 and not allow_zero and i < len(before) else size for i, size in enumerate(wanted)]
    known = math.prod(size for size in sides if size != -1)
    return tuple(math.prod(before) // max(known, 1) if size == -1 else size for size in sides)


def squeezed(axes: Axes, sizes: Sizes, which: Sequence[int] | None) -> Axes:
    """Without the axes `which`, or all of size 1."""
    narrow = [i for i, size in enumerate(shape(axes, sizes)) if size == 1]
    gone = narrow if which is None else [i % len(axes) for i in which]
    return tuple(axis for i, axis in enumerate(axes) if i not in gone)


def unsqueezed(axes: Axes, which: Sequence[int]) -> Axes:
    """With axes of size 1 at `which`, positions in the result."""
    rank = len(axes) + len(which)
    added = {i % rank for i in which}
    rest = iter(axes)
    return tuple(() if i in added else next(rest) for i in range(rank))
