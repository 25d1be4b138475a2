"""What a window that moves along one side of a feature map takes, position by position.

Attributes of two libraries say the same in many ways (padding by a layer of its own, padding that nothing reads, sizes
rounded up or down, an average of all); what is taken does not.
"""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

Pads = tuple[int, int]
# For each output the inputs under the window, ascending; None: a zero that was put beside the side.
Taps = tuple[tuple[int | None, ...], ...]
# For each output the inputs that count, and how much.
Shares = tuple[tuple[tuple[int, Fraction], ...], ...]


@dataclasses.dataclass(frozen=True)
class Window:
    """Along one side.

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

    def _under(self, output: int) -> list[int]:
        """Positions under the window, counted from the side's first value."""
        start = output * self.stride - self.pads[0] - self.zeros[0]
        return [start + i * self.dilation for i in range(self.kernel)]

    def _is_value(self, position: int) -> bool:
        return -self.zeros[0] <= position < self.size + self.zeros[1]

    def convolved(self) -> Taps:
        """What each element of a kernel meets."""
        return tuple(
            tuple(i if 0 <= i < self.size else None for i in self._under(output)) for output in range(self.outputs)
        )

    def greatest(self) -> Taps:
        """What each maximum is of: padding counts only where it is a value."""
        found = []
        for output in range(self.outputs):
            values = [i for i in self._under(output) if self._is_value(i)]
            inside = [i for i in values if 0 <= i < self.size]
            found.append((*inside, *([None] if len(inside) < len(values) else ())))
        return tuple(found)

    def averaged(self, counts_padding: bool) -> Shares:
        """What each average is of; `counts_padding` divides by padding under the window too."""
        end = self.size + self.zeros[1] + self.pads[1]
        found = []
        for output in range(self.outputs):
            under = self._under(output)
            counted = sum(i < end if counts_padding else self._is_value(i) for i in under)
            found.append(tuple((i, Fraction(1, max(1, counted))) for i in under if 0 <= i < self.size))
        return tuple(found)


def same_pads(size: int, kernel: int, stride: int, dilation: int = 1, *, upper: bool = True) -> Pads:
    """The padding that TensorFlow's `SAME` stands for; `upper`: an odd pixel goes to the end."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    low, high = total // 2, total - total // 2
    return (low, high) if upper else (high, low)


def mean(size: int) -> Shares:
    """One average of a whole side."""
    return (tuple((i, Fraction(1, size)) for i in range(size)),)


def each(size: int) -> Shares:
    """A side left as it is."""
    return tuple(((i, Fraction(1)),) for i in range(size))


def adaptive(size: int, cells: int) -> Shares:
    """PyTorch's AdaptiveAvgPool: cell i averages floor(i*n/cells) to ceil((i+1)*n/cells)."""
    found = []
    for cell in range(cells):
        start, stop = cell * size // cells, -(-(cell + 1) * size // cells)
        found.append(tuple((i, Fraction(1, stop - start)) for i in range(start, stop)))
    return tuple(found)


def after(first: Shares, second: Shares) -> Shares:
    """One average of another's results."""
    found = []
    for row in second:
        shares: dict[int, Fraction] = {}
        for i, outer in row:
            for k, inner in first[i]:
                shares[k] = shares.get(k, Fraction(0)) + outer * inner
        found.append(tuple(sorted(shares.items())))
    return tuple(found)


def picked(positions: Sequence[int] | int) -> Taps:
    """Single positions, or each of a side."""
    return tuple((i,) for i in (range(positions) if isinstance(positions, int) else positions))


def without_zeros(taps: Taps) -> Taps:
    """Without the zeros beside the side, where there is another value."""
    return tuple(tuple(i for i in each if i is not None) or each for each in taps)
