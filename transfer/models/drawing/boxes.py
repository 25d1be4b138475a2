"""What a diagram is put together from: boxes that know their size before they are painted, on a line to the right."""

from collections.abc import Sequence

from transfer.models.drawing.canvas import INK, LINE, SMALL, USUAL, Canvas, text_width

GAP = 16.0
LANE = 10.0
# Between branches; around the row of a frame, and for its title; radius of a sum.
SPACE, MARGIN, TITLE, RADIUS = 8.0, 8.0, 20.0, 9.0
FRAME, FRAME_LINE, JOIN, TAP = "#f6f8fa", "#d0d7de", "#fff8c5", "#6639ba"


class Box:
    """Something of a width, so far above and so far below the line that runs through it.

    `dashed`: it does not lie on the way to the output.
    """

    width: float
    above: float
    below: float
    dashed = False

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        """Paints it with its left end at x and its line at y."""
        raise NotImplementedError


class Card(Box):
    """A step: its first line large, the others small."""

    def __init__(self, lines: Sequence[str], fill: str, dashed: bool = False) -> None:
        self.lines, self.fill, self.dashed = lines, fill, dashed
        sizes = (USUAL, *[SMALL] * (len(lines) - 1))
        self.width = max(map(text_width, lines, sizes)) + 12
        self.above = self.below = 5 + 8 * len(lines)

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        canvas.rectangle(x, y - self.above, self.width, 2 * self.above, self.fill, line=LINE)
        for i, line in enumerate(self.lines):
            middle = y + 15.5 * (i - (len(self.lines) - 1) / 2)
            canvas.text(x + self.width / 2, middle, line, size=SMALL if i else USUAL)


class Tap(Box):
    """The name under which a step's output is returned."""

    above = below = 10.0

    def __init__(self, name: str, dashed: bool = False) -> None:
        self.name, self.dashed = name, dashed
        self.width = text_width(name, SMALL, bold=True) + 14

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        canvas.rectangle(x, y - self.above, self.width, 2 * self.above, TAP, radius=10)
        canvas.text(x + self.width / 2, y, self.name, size=SMALL, bold=True, fill="#ffffff")


class Row(Box):
    """Boxes one after the other, with arrows between; none at all is a plain shortcut."""

    def __init__(self, boxes: Sequence[Box]) -> None:
        self.boxes = boxes
        self.width = sum(box.width for box in boxes) + GAP * max(0, len(boxes) - 1)
        self.above = max((box.above for box in boxes), default=0.0)
        self.below = max((box.below for box in boxes), default=0.0)

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        for i, box in enumerate(self.boxes):
            if i:
                canvas.line([(x - GAP, y), (x, y)], arrow=not isinstance(box, Tap), dashed=box.dashed)
            box.paint(canvas, x, y)
            x += box.width + GAP


class Shortcut(Box):
    """A residual unit: the body on the line, the shortcut in an arc above it, and the sum, with what follows below."""

    def __init__(self, body: Row, shortcut: Row, after: str) -> None:
        self.body, self.shortcut, self.after = body, shortcut, after
        self.inner = max(body.width, shortcut.width)
        self.overhang = max(0.0, text_width(after, SMALL) / 2 - RADIUS)
        self.width = GAP + self.inner + GAP + 2 * RADIUS + self.overhang
        self.above = body.above + LANE + shortcut.below + shortcut.above
        self.below = max(body.below, RADIUS + (16 if after else 0))

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        lane = y - self.body.above - LANE - self.shortcut.below
        start, joint = x + GAP, x + GAP + self.inner + GAP + RADIUS
        begin = start + (self.inner - self.body.width) / 2
        canvas.line([(x, y), (begin, y)])
        self.body.paint(canvas, begin, y)
        canvas.line([(begin + self.body.width, y), (joint - RADIUS, y)])
        fork = x + GAP / 3
        up, down = [(fork, y), (fork, lane)], [(joint, lane), (joint, y - RADIUS)]
        if self.shortcut.boxes:
            begin = start + (self.inner - self.shortcut.width) / 2
            canvas.line([*up, (begin, lane)])
            self.shortcut.paint(canvas, begin, lane)
            canvas.line([(begin + self.shortcut.width, lane), *down])
        else:
            canvas.line([*up, *down])
        canvas.circle(fork, y, 2.2, LINE)
        canvas.circle(joint, y, RADIUS, JOIN, LINE)
        canvas.text(joint, y, "+", size=USUAL, bold=True)
        if self.after:
            canvas.text(joint, y + RADIUS + 8, self.after, size=SMALL)
        if self.overhang:
            canvas.line([(joint + RADIUS, y), (joint + RADIUS + self.overhang, y)], arrow=False)


class Branches(Box):
    """Branches one above the other, between a fork and the bar that joins them."""

    def __init__(self, branches: Sequence[Row], join: Sequence[str]) -> None:
        self.branches, self.join = branches, join
        self.bar = max(text_width(line, SMALL) for line in join) + 10
        self.width = GAP * 1.5 + max(row.width for row in branches) + GAP + self.bar
        self.height = sum(row.above + row.below for row in branches) + SPACE * (len(branches) - 1)
        self.above = self.below = self.height / 2

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        fork, start = x + GAP / 2, x + GAP * 1.5
        bar = x + self.width - self.bar
        canvas.line([(x, y), (fork, y)], arrow=False)
        top = y - self.above
        for row in self.branches:
            line = top + row.above
            bend = [(fork, y), (fork, line)] if abs(line - y) > 0.5 else [(fork, y)]
            canvas.line([*bend, (start, line) if row.boxes else (bar, line)])
            if row.boxes:
                row.paint(canvas, start, line)
                canvas.line([(start + row.width, line), (bar, line)])
            top += row.above + row.below + SPACE
        canvas.circle(fork, y, 2.2, LINE)
        canvas.rectangle(bar, y - self.above, self.bar, self.height, JOIN, line=LINE)
        for i, text in enumerate(self.join):
            canvas.text(bar + self.bar / 2, y + 14 * (i - (len(self.join) - 1) / 2), text, size=SMALL)


class Frame(Box):
    """A unit with its name over it."""

    def __init__(self, title: str, row: Row) -> None:
        self.title, self.row = title, row
        self.width = max(row.width, text_width(title, SMALL, bold=True)) + 2 * MARGIN
        self.above = row.above + MARGIN / 2 + TITLE
        self.below = row.below + MARGIN

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        top, right = y - self.above, x + self.width
        canvas.rectangle(x, top, self.width, self.above + self.below, FRAME, line=FRAME_LINE, radius=6)
        canvas.text(x + MARGIN, top + TITLE / 2, self.title, size=SMALL, bold=True, anchor="start", fill=INK)
        canvas.line([(x, y), (x + MARGIN, y)], arrow=False)
        self.row.paint(canvas, x + MARGIN, y)
        canvas.line([(x + MARGIN + self.row.width, y), (right, y)], arrow=False)


def wrapped(boxes: Sequence[Box], width: float) -> list[Row]:
    """Rows no wider than `width`, if each box is not; a tap stays with what it is the tap of."""
    rows: list[list[Box]] = [[]]
    for box in boxes:
        if rows[-1] and not isinstance(box, Tap) and Row([*rows[-1], box]).width > width:
            rows.append([])
        rows[-1].append(box)
    return list(map(Row, rows))
