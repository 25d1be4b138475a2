"""What a diagram is put together from: boxes that know their size before they are painted, as SVG, on a line."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
INK, LINE, PAPER = "#1f2328", "#57606a", "#ffffff"
FRAME, FRAME_LINE, JOIN, TAP = "#f6f8fa", "#d0d7de", "#fff8c5", "#6639ba"
# An average of Helvetica, and not less than any usual sans serif takes for digits and small letters.
CHARACTER = 0.6
LARGE, USUAL, SMALL = 15.0, 13.0, 11.5
# Between boxes in a row; between branches; around the row of a frame, and for its title.
GAP, SPACE, MARGIN, TITLE = 16.0, 8.0, 8.0, 20.0
ARROWHEAD = f"""<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"
orient="auto" markerUnits="userSpaceOnUse"><path d="M0 0.5 L8 4 L0 7.5 z" fill="{LINE}"/></marker></defs>"""


def text_width(text: str, size: float, bold: bool = False) -> float:
    """About how wide a text is, in whole pixels, whose sums are the same in every version of Python."""
    return float(math.ceil(len(text) * size * CHARACTER * (1.08 if bold else 1.0)))


class Canvas:
    """An SVG file: collects shapes in the order in which they are painted."""

    def __init__(self, title: str) -> None:
        self.root = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "font-family": FONT})
        ElementTree.SubElement(self.root, "title").text = title
        self.root.append(ElementTree.fromstring(ARROWHEAD))
        self.paper = self._add("rect", rx=8, fill=PAPER)

    def _add(self, tag: str, **attributes: str | float) -> ElementTree.Element:
        """Appends an element; `_` stands for `-` in the names of its attributes."""
        written = {name.replace("_", "-"): _written(value) for name, value in attributes.items()}
        return ElementTree.SubElement(self.root, tag, written)

    def rectangle(
        self, x: float, y: float, width: float, height: float, fill: str, *, line: str = "none", radius: float = 4
    ) -> None:
        """Paints a rectangle with its upper left corner at (x, y)."""
        self._add("rect", x=x, y=y, width=width, height=height, rx=radius, fill=fill, stroke=line)

    def text(
        self, x: float, y: float, text: str, size: float = USUAL, *, fill: str = INK, anchor: str = "middle"
    ) -> None:
        """Writes a text with its middle line at y."""
        # not dominant-baseline, which few readers of SVG know
        self._add("text", x=x, y=y + 0.35 * size, font_size=size, fill=fill, text_anchor=anchor).text = text

    def line(self, *points: tuple[float, float], arrow: bool = True, dashed: bool = False) -> None:
        """Draws straight pieces from point to point."""
        style = {"marker_end": "url(#head)"} if arrow else {}
        style |= {"stroke_dasharray": "4 3"} if dashed else {}
        corners = " ".join(f"{_written(x)},{_written(y)}" for x, y in points)
        self._add("polyline", points=corners, fill="none", stroke=LINE, stroke_width=1.3, **style)

    def svg(self, width: float, height: float) -> str:
        """The file's text, for a picture of this size."""
        size = {"width": _written(width), "height": _written(height)}
        self.paper.attrib.update(size)
        self.root.attrib.update(size, viewBox=f"0 0 {size['width']} {size['height']}")
        ElementTree.indent(self.root, " ")
        return ElementTree.tostring(self.root, encoding="unicode") + "\n"


def _written(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


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

    ink, line, radius = INK, LINE, 4.0

    def __init__(self, lines: Sequence[str], fill: str, dashed: bool = False) -> None:
        self.lines, self.fill, self.dashed = lines, fill, dashed
        self.sizes = (USUAL, *[SMALL] * (len(lines) - 1))
        self.width = max(map(text_width, lines, self.sizes)) + 12
        self.above = self.below = 5 + 8 * len(lines)

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        canvas.rectangle(x, y - self.above, self.width, 2 * self.above, self.fill, line=self.line, radius=self.radius)
        for i, (line, size) in enumerate(zip(self.lines, self.sizes, strict=True)):
            canvas.text(x + self.width / 2, y + 15.5 * (i - (len(self.lines) - 1) / 2), line, size, fill=self.ink)


class Tap(Card):
    """The name under which a step's output is returned."""

    ink, line, radius = PAPER, "none", 13.0

    def __init__(self, name: str, dashed: bool = False) -> None:
        super().__init__([name], TAP, dashed)


class Row(Box):
    """Boxes one after the other, with arrows between; none at all is a plain shortcut."""

    def __init__(self, boxes: Sequence[Box]) -> None:
        self.boxes = boxes
        self.width = sum(box.width for box in boxes) + GAP * max(0, len(boxes) - 1)
        self.above = max((box.above for box in boxes), default=SPACE)
        self.below = max((box.below for box in boxes), default=SPACE)

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        for i, box in enumerate(self.boxes):
            if i:
                canvas.line((x - GAP, y), (x, y), arrow=not isinstance(box, Tap), dashed=box.dashed)
            box.paint(canvas, x, y)
            x += box.width + GAP


class Branches(Box):
    """Branches one above the other, between a fork and the bar that joins them.

    Args:
        straight: the last one lies on the line, such as the body of a residual unit; else the middle of all does.
    """

    def __init__(self, rows: Sequence[Row], join: Sequence[str], straight: bool) -> None:
        self.rows, self.join = rows, join
        self.bar = max(text_width(line, SMALL) for line in join) + 10
        self.width = GAP * 1.5 + max(row.width for row in rows) + GAP + self.bar
        self.height = sum(row.above + row.below for row in rows) + SPACE * (len(rows) - 1)
        self.below = rows[-1].below if straight else self.height / 2
        self.above = self.height - self.below

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        fork, start, bar, top = x + GAP / 2, x + GAP * 1.5, x + self.width - self.bar, y - self.above
        canvas.line((x, y), (fork, y), arrow=False)
        for row in self.rows:
            line = top + row.above
            canvas.line((fork, y), (fork, line), (start if row.boxes else bar, line))
            if row.boxes:
                row.paint(canvas, start, line)
                canvas.line((start + row.width, line), (bar, line))
            top += row.above + row.below + SPACE
        canvas.rectangle(bar, y - self.above, self.bar, self.height, JOIN, line=LINE)
        middle = y - self.above + self.height / 2
        for i, text in enumerate(self.join):
            canvas.text(bar + self.bar / 2, middle + 14 * (i - (len(self.join) - 1) / 2), text, SMALL)


class Frame(Box):
    """A unit with its name over it."""

    def __init__(self, title: str, row: Row) -> None:
        self.title, self.row = title, row
        self.width = max(row.width, text_width(title, SMALL)) + 2 * MARGIN
        self.above, self.below = row.above + MARGIN / 2 + TITLE, row.below + MARGIN

    def paint(self, canvas: Canvas, x: float, y: float) -> None:
        top, inside = y - self.above, x + MARGIN
        canvas.rectangle(x, top, self.width, self.above + self.below, FRAME, line=FRAME_LINE, radius=6)
        canvas.text(inside, top + TITLE / 2, self.title, SMALL, anchor="start")
        canvas.line((x, y), (inside, y), arrow=False)
        self.row.paint(canvas, inside, y)
        canvas.line((inside + self.row.width, y), (x + self.width, y), arrow=False)


def wrapped(boxes: Sequence[Box], width: float) -> list[Row]:
    """Rows no wider than `width`, if each box is not; a tap stays with what it is the tap of."""
    rows: list[list[Box]] = [[]]
    for box in boxes:
        if rows[-1] and not isinstance(box, Tap) and Row([*rows[-1], box]).width > width:
            rows.append([])
        rows[-1].append(box)
    return list(map(Row, rows))
