"""What a window that moves along one side of a feature map takes, position by position.

Attributes of two libraries say the same in many ways (padding by a layer of its own, padding that nothing reads, sizes
rounded up or down, an average of all); what is taken does not.
"""

import dataclasses
from collections.abc import Iterable
from fractions import Fraction

Pads = tuple[int, int]
# For each output the inputs under the window, ascending; None: a zero that was put beside the side.
Taps = tuple[tuple[int | None, ...], ...]
# For each output the inputs that count, and how much.
Shares = tuple[tuple[tuple[int, Fraction], ...], ...]


@dataclasses.dataclass(frozen=True)
class Window:
    """A window along one side.

    Attributes:
      size: of the side.
      kernel, stride, dilation: in pixels.
      zeros: how many were put at its start and end as values.
      pads: how many the window may reach beyond those.
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
        span = self.dilation * (self.kernel - 1) + 1
        room = self.size + sum(self.zeros) + sum(self.pads) - span
        if room < 0:
            return 0
        steps = -(-room // self.stride) if self.ceil_mode else room // self.stride
        if self.ceil_mode and steps * self.stride >= self.size + sum(self.zeros) + self.pads[0]:
            steps -= 1
        return steps + 1

    def _under(self) -> list[range]:
        """The positions under the window of each output, counted from the side's first value."""
        first, span = -self.pads[0] - self.zeros[0], self.dilation * self.kernel
        starts = range(first, first + self.outputs * self.stride, self.stride)
        return [range(start, start + span, self.dilation) for start in starts]

    def _values(self, under: Iterable[int]) -> list[int | None]:
        """Those of the positions that are values, None for a zero beside the side."""
        values = [i for i in under if -self.zeros[0] <= i < self.size + self.zeros[1]]
        return [i if 0 <= i < self.size else None for i in values]

    def padded(self) -> "Window":
        """The window with padding in place of the zeros."""
        low, high = (zeros + pads for zeros, pads in zip(self.zeros, self.pads, strict=True))
        return dataclasses.replace(self, zeros=(0, 0), pads=(low, high))

    def convolved(self) -> Taps:
        """The elements that each element of a kernel meets."""
        return tuple(tuple(i if 0 <= i < self.size else None for i in under) for under in self._under())

    def maxima(self) -> Taps:
        """The elements that each maximum is of: padding counts only where it is a value."""
        rows = map(self._values, self._under())
        return tuple((*(i for i in row if i is not None), *([None] if None in row else ())) for row in rows)

    def averages(self, counts_padding: bool) -> Shares:
        """The elements that each average is of; `counts_padding` divides by padding under the window too."""
        end = self.size + self.zeros[1] + self.pads[1]
        rows = []
        for under in self._under():
            counted = sum(i < end for i in under) if counts_padding else len(self._values(under))
            rows.append(tuple((i, Fraction(1, max(1, counted))) for i in under if 0 <= i < self.size))
        return tuple(rows)


def same_pads(size: int, kernel: int, stride: int, dilation: int = 1, *, upper: bool = True) -> Pads:
    """The padding that TensorFlow's `SAME` stands for; `upper`: an odd pixel goes to the end."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    low, high = total // 2, total - total // 2
    return (low, high) if upper else (high, low)


def picked(positions: Iterable[int]) -> Taps:
    """Single positions; all of a side leave it as it is."""
    return tuple((i,) for i in positions)


def without_zeros(taps: Taps) -> Taps:
    """The taps without the zeros beside the side, where there is another value."""
    return tuple(tuple(i for i in taken if i is not None) or taken for taken in taps)


def adaptive(size: int, cells: int) -> Shares:
    """PyTorch's AdaptiveAvgPool: cell i averages floor(i*n/cells) to ceil((i+1)*n/cells).

    One cell is the average of a whole side, as many cells as positions leave it as it is.
    """
    rows = []
    for cell in range(cells):
        start, stop = cell * size // cells, -(-(cell + 1) * size // cells)
        rows.append(tuple((i, Fraction(1, stop - start)) for i in range(start, stop)))
    return tuple(rows)


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
