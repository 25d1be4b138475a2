"""What a window that moves along one side of a feature map takes, position by position.

Attributes of two libraries say the same in many ways (padding by a layer of its own, padding that nothing reads, sizes
rounded up or down, an average of all); what is taken does not.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from fractions import Fraction

Pads = tuple[int, int]
NO_PADS: tuple[Pads, Pads] = ((0, 0), (0, 0))
# For each output the inputs under the window, ascending; None: a zero that was put beside the side.
Taps = tuple[tuple[int | None, ...], ...]
# For each output the inputs that count, and how much.
Shares = tuple[tuple[tuple[int, Fraction], ...], ...]


@dataclasses.dataclass(frozen=True)
class Window:
    """A window along one side of `size` pixels.

    Attributes:
      zeros: how many were put at the side's start and end as values.
      pads: how many pixels the window may reach beyond those.
      ceil_mode: a last window may hang over the edge, unless it starts in the padding (PyTorch).
    """

    size: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    zeros: Pads = (0, 0)
    pads: Pads = (0, 0)
    ceil_mode: bool = False

    @property
    def outputs(self) -> int:
        """How often the window fits; 0 where it does not."""
        given = self.size + sum(self.zeros)
        room = given + sum(self.pads) - self.dilation * (self.kernel - 1) - 1
        if room < 0:
            return 0
        steps = -(-room // self.stride) if self.ceil_mode else room // self.stride
        starts_in_padding = self.ceil_mode and steps * self.stride >= given + self.pads[0]
        return steps if starts_in_padding else steps + 1

    def _rows(self) -> Iterator[tuple[range, tuple[int, ...], int]]:
        """For each output the positions under the window, those on the side, and how many zeros it takes beside it."""
        first, span = -self.pads[0] - self.zeros[0], self.dilation * self.kernel
        for start in range(first, first + self.outputs * self.stride, self.stride):
            under = range(start, start + span, self.dilation)
            inside = tuple(i for i in under if 0 <= i < self.size)
            values = sum(-self.zeros[0] <= i < self.size + self.zeros[1] for i in under)
            yield under, inside, values - len(inside)

    def convolved(self) -> Taps:
        """The elements that each element of a kernel meets."""
        return tuple(tuple(i if 0 <= i < self.size else None for i in under) for under, *_ in self._rows())

    def maxima(self) -> Taps:
        """The elements that each maximum is of: padding counts only where it is a value."""
        return tuple((*inside, None) if zeros else inside for _, inside, zeros in self._rows())

    def averages(self, counts_padding: bool) -> Shares:
        """The elements that each average is of; `counts_padding` divides by padding under the window too."""
        end, rows = self.size + self.zeros[1] + self.pads[1], []
        for under, inside, zeros in self._rows():
            counted = sum(i < end for i in under) if counts_padding else len(inside) + zeros
            rows.append(tuple((i, Fraction(1, max(1, counted))) for i in inside))
        return tuple(rows)


def described(pair: tuple[Window, Window], padding: str = "padding") -> str:
    """A window along rows and columns in a message."""
    kernel, strides, dilations, size, outputs = (
        "x".join(str(getattr(window, name)) for window in pair)
        for name in ("kernel", "stride", "dilation", "size", "outputs")
    )
    pads = " ".join(f"{w.zeros[0] + w.pads[0]}+{w.zeros[1] + w.pads[1]}" for w in pair)
    rare = "" if dilations == "1x1" else f", dilation {dilations}"
    return f"{kernel}, stride {strides}, {padding} {pads}{rare}, {size} -> {outputs} pixels"


def same_pads(size: int, kernel: int, stride: int, dilation: int = 1, *, upper: bool = True) -> Pads:
    """The padding that TensorFlow's `SAME` stands for; `upper`: an odd pixel goes to the end."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    low, high = total // 2, total - total // 2
    return (low, high) if upper else (high, low)


def picked(positions: Iterable[int]) -> Taps:
    """Single positions; all of a side leave it as it is."""
    return tuple((i,) for i in positions)


def adaptive(size: int, cells: int) -> Shares:
    """PyTorch's AdaptiveAvgPool: cell i averages floor(i*n/cells) to ceil((i+1)*n/cells).

    One cell is the average of a whole side, as many cells as positions leave it as it is.
    """
    limits = [(cell * size // cells, -(-(cell + 1) * size // cells)) for cell in range(cells)]
    return tuple(tuple((i, Fraction(1, stop - start)) for i in range(start, stop)) for start, stop in limits)


def averages_of(first: Shares, second: Shares) -> Shares:
    """The averages `second` of the averages `first`."""
    rows = []
    for row in second:
        shares: dict[int, Fraction] = {}
        for i, outer in row:
            for k, inner in first[i]:
                shares[k] = shares.get(k, Fraction(0)) + outer * inner
        rows.append(tuple(sorted(shares.items())))
    return tuple(rows)
