"""What a diagram is put together from: boxes that know their size before they are painted, on a line to the right."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from transfer.models.drawing.canvas import INK, LINE, SMALL, USUAL, Canvas, text_width

GAP = 16.0
LANE = 10.0
FRAME, FRAME_LINE, TAP = "#f6f8fa", "#d0d7de", "#6639ba"


class Box(Protocol):
    """Something of a width, so far above and so far below the line that runs through it."""

    @property
    def width(self) -> float: ...
    @property
    def above(self) -> float: ...
    @property
    def below(self) -> float: ...

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        """With its left end at x and its line at y."""


@dataclasses.dataclass(frozen=True)
class Card:
    """A step: its first line large, the others small. `dashed`: it does not lie on the road to the output."""

    lines: tuple[str, ...]
    fill: str
    dashed: bool = False

    @property
    def width(self) -> float:
        sizes = (USUAL, *[SMALL] * (len(self.lines) - 1))
        return max(text_width(line, size) for line, size in zip(self.lines, sizes, strict=True)) + 12

    @property
    def above(self) -> float:
        return 5 + 8 * len(self.lines)

    @property
    def below(self) -> float:
        return self.above

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        canvas.rectangle(x, y - self.above, self.width, 2 * self.above, self.fill, line=LINE)
        for i, line in enumerate(self.lines):
            middle = y + 15.5 * (i - (len(self.lines) - 1) / 2)
            canvas.text(x + self.width / 2, middle, line, size=SMALL if i else USUAL)


@dataclasses.dataclass(frozen=True)
class Tap:
    """The name under which a step's output is returned."""

    name: str
    dashed: bool = False
    above: float = 10.0
    below: float = 10.0

    @property
    def width(self) -> float:
        return text_width(self.name, SMALL, bold=True) + 14

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        canvas.rectangle(x, y - self.above, self.width, 2 * self.above, TAP, radius=10)
        canvas.text(x + self.width / 2, y, self.name, size=SMALL, bold=True, fill="#ffffff")


@dataclasses.dataclass(frozen=True)
class Row:
    """One after the other, with arrows between."""

    boxes: tuple[Box, ...]

    @property
    def width(self) -> float:
        return sum(box.width for box in self.boxes) + GAP * max(0, len(self.boxes) - 1)

    @property
    def above(self) -> float:
        return max((box.above for box in self.boxes), default=0.0)

    @property
    def below(self) -> float:
        return max((box.below for box in self.boxes), default=0.0)

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        for i, box in enumerate(self.boxes):
            if i:
                dashed = getattr(box, "dashed", False)
                canvas.line([(x - GAP, y), (x, y)], arrow=not isinstance(box, Tap), dashed=dashed)
            box.paint(canvas, x, y)
            x += box.width + GAP


@dataclasses.dataclass(frozen=True)
class Shortcut:
    """A residual unit: the body on the line, the shortcut in an arc above it, and the sum."""

    body: Row
    shortcut: Row
    after: str
    radius: float = 9.0

    @property
    def width(self) -> float:
        return GAP + max(self.body.width, self.shortcut.width) + GAP + 2 * self.radius + self._after

    @property
    def _after(self) -> float:
        return max(0.0, text_width(self.after, SMALL) / 2 - self.radius)

    @property
    def above(self) -> float:
        return self.body.above + LANE + self.shortcut.below + self.shortcut.above

    @property
    def below(self) -> float:
        return max(self.body.below, self.radius + (16 if self.after else 0))

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        inner = max(self.body.width, self.shortcut.width)
        lane = y - self.body.above - LANE - self.shortcut.below
        start, joint = x + GAP, x + GAP + inner + GAP + self.radius
        begin = start + (inner - self.body.width) / 2
        canvas.line([(x, y), (begin, y)])
        self.body.paint(canvas, begin, y)
        canvas.line([(begin + self.body.width, y), (joint - self.radius, y)])
        fork = x + GAP / 3
        if self.shortcut.boxes:
            begin = start + (inner - self.shortcut.width) / 2
            canvas.line([(fork, y), (fork, lane), (begin, lane)])
            self.shortcut.paint(canvas, begin, lane)
            canvas.line([(begin + self.shortcut.width, lane), (joint, lane), (joint, y - self.radius)])
        else:
            canvas.line([(fork, y), (fork, lane), (joint, lane), (joint, y - self.radius)])
        canvas.circle(fork, y, 2.2, LINE)
        canvas.circle(joint, y, self.radius, "#fff8c5", LINE)
        canvas.text(joint, y, "+", size=USUAL, bold=True)
        if self.after:
            canvas.text(joint, y + self.radius + 8, self.after, size=SMALL)
        if self._after:
            canvas.line([(joint + self.radius, y), (joint + self.radius + self._after, y)], arrow=False)


@dataclasses.dataclass(frozen=True)
class Branches:
    """Branches one above the other, between a fork and the bar that joins them."""

    branches: tuple[Row, ...]
    join: tuple[str, ...]
    space: float = 8.0

    @property
    def _height(self) -> float:
        return sum(row.above + row.below for row in self.branches) + self.space * (len(self.branches) - 1)

    @property
    def _bar(self) -> float:
        return max(text_width(line, SMALL) for line in self.join) + 10

    @property
    def width(self) -> float:
        return GAP * 1.5 + max(row.width for row in self.branches) + GAP + self._bar

    @property
    def above(self) -> float:
        return self._height / 2

    @property
    def below(self) -> float:
        return self._height / 2

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        fork, start = x + GAP / 2, x + GAP * 1.5
        bar = x + self.width - self._bar
        canvas.line([(x, y), (fork, y)], arrow=False)
        top = y - self.above
        for row in self.branches:
            line = top + row.above
            bend = [(fork, y), (fork, line)] if abs(line - y) > 0.5 else [(fork, y)]
            canvas.line([*bend, (start, line) if row.boxes else (bar, line)])
            if row.boxes:
                row.paint(canvas, start, line)
                canvas.line([(start + row.width, line), (bar, line)])
            top += row.above + row.below + self.space
        canvas.circle(fork, y, 2.2, LINE)
        canvas.rectangle(bar, y - self.above, self._bar, self._height, "#fff8c5", line=LINE)
        for i, text in enumerate(self.join):
            canvas.text(bar + self._bar / 2, y + 14 * (i - (len(self.join) - 1) / 2), text, size=SMALL)


@dataclasses.dataclass(frozen=True)
class Frame:
    """A unit with its name over it."""

    title: str
    row: Row
    margin: float = 8.0
    head: float = 20.0

    @property
    def width(self) -> float:
        return max(self.row.width, text_width(self.title, SMALL, bold=True)) + 2 * self.margin

    @property
    def above(self) -> float:
        return self.row.above + self.margin / 2 + self.head

    @property
    def below(self) -> float:
        return self.row.below + self.margin

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        height = self.above + self.below
        canvas.rectangle(x, y - self.above, self.width, height, FRAME, line=FRAME_LINE, radius=6)
        middle = y - self.above + self.head / 2
        canvas.text(x + self.margin, middle, self.title, size=SMALL, bold=True, anchor="start", fill=INK)
        canvas.line([(x, y), (x + self.margin, y)], arrow=False)
        self.row.paint(canvas, x + self.margin, y)
        canvas.line([(x + self.margin + self.row.width, y), (x + self.width, y)], arrow=False)


def wrapped(boxes: Sequence[Box], width: float) -> list[Row]:
    """Rows no wider than `width`, if each box is not; a tap stays with what it is the tap of."""
    rows: list[list[Box]] = [[]]
    for box in boxes:
        if rows[-1] and not isinstance(box, Tap) and Row((*rows[-1], box)).width > width:
            rows.append([])
        rows[-1].append(box)
    return [Row(tuple(row)) for row in rows]
