"""An SVG file: rectangles, texts and lines with arrowheads, in the few styles that the diagrams have."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
INK, LINE, PAPER = "#1f2328", "#57606a", "#ffffff"
# An average of Helvetica, and not less than any usual sans serif takes for digits and small letters.
CHARACTER = 0.6
LARGE, USUAL, SMALL = 15.0, 13.0, 11.5
TURN = 7.0

Point = tuple[float, float]


def text_width(text: str, size: float, bold: bool = False) -> float:
    """About how wide a text is, in whole pixels, whose sums are the same in every version of Python."""
    return float(math.ceil(len(text) * size * CHARACTER * (1.08 if bold else 1.0)))


class Canvas:
    """Collects shapes in the order in which they are painted."""

    def __init__(self, title: str) -> None:
        self.root = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "font-family": FONT})
        ElementTree.SubElement(self.root, "title").text = title
        marker = ElementTree.SubElement(
            ElementTree.SubElement(self.root, "defs"),
            "marker",
            {"id": "head", "viewBox": "0 0 8 8", "refX": "7", "refY": "4", "markerWidth": "7", "markerHeight": "7"}
            | {"orient": "auto", "markerUnits": "userSpaceOnUse"},
        )
        ElementTree.SubElement(marker, "path", {"d": "M0 0.5 L8 4 L0 7.5 z", "fill": LINE})
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

    def circle(self, x: float, y: float, radius: float, fill: str, line: str = "none") -> None:
        """Paints a circle around (x, y)."""
        self._add("circle", cx=x, cy=y, r=radius, fill=fill, stroke=line)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = USUAL,
        bold: bool = False,
        fill: str = INK,
        anchor: str = "middle",
    ) -> None:
        """Writes a text with its middle line at y."""
        weight = {"font_weight": "bold"} if bold else {}
        # not dominant-baseline, which few readers of SVG know
        element = self._add("text", x=x, y=y + 0.35 * size, font_size=size, fill=fill, text_anchor=anchor, **weight)
        element.text = text

    def line(self, points: Sequence[Point], *, arrow: bool = True, dashed: bool = False) -> None:
        """Draws straight pieces from point to point, horizontal or vertical, with rounded corners."""
        parts = [f"M{_pair(points[0])}"]
        for before, corner, after in zip(points, points[1:], points[2:], strict=False):
            parts.append(f"L{_pair(_towards(corner, before))} Q{_pair(corner)} {_pair(_towards(corner, after))}")
        parts.append(f"L{_pair(points[-1])}")
        style = {"marker_end": "url(#head)"} if arrow else {}
        style |= {"stroke_dasharray": "4 3"} if dashed else {}
        self._add("path", d=" ".join(parts), fill="none", stroke=LINE, stroke_width="1.3", **style)

    def svg(self, width: float, height: float) -> str:
        """The file's text, for a picture of this size."""
        size = {"width": _written(width), "height": _written(height)}
        self.paper.attrib.update(size)
        self.root.attrib.update(size, viewBox=f"0 0 {_pair((width, height))}")
        ElementTree.indent(self.root, " ")
        return ElementTree.tostring(self.root, encoding="unicode") + "\n"


def _written(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")


def _pair(point: Point) -> str:
    return f"{_written(point[0])} {_written(point[1])}"


def _towards(corner: Point, other: Point) -> Point:
    """A point near the corner on the way to the other point."""
    (x, y), (to_x, to_y) = corner, other
    distance = abs(to_x - x) + abs(to_y - y)
    step = min(TURN, distance / 2) / distance if distance else 0
    return x + (to_x - x) * step, y + (to_y - y) * step
