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
        self.paper = ElementTree.SubElement(self.root, "rect", {"rx": "8", "fill": PAPER})

    def rectangle(
        self, x: float, y: float, width: float, height: float, fill: str, *, line: str = "none", radius: float = 4
    ) -> None:
        """With its upper left corner at (x, y)."""
        size = {"x": _number(x), "y": _number(y), "width": _number(width), "height": _number(height)}
        ElementTree.SubElement(self.root, "rect", size | {"rx": _number(radius), "fill": fill, "stroke": line})

    def circle(self, x: float, y: float, radius: float, fill: str, line: str = "none") -> None:
        """Round (x, y)."""
        place = {"cx": _number(x), "cy": _number(y), "r": _number(radius)}
        ElementTree.SubElement(self.root, "circle", place | {"fill": fill, "stroke": line})

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
        """With its middle line at y."""
        style = {"font-size": _number(size), "fill": fill, "text-anchor": anchor}
        if bold:
            style["font-weight"] = "bold"
        # not dominant-baseline, which few readers of SVG know
        place = {"x": _number(x), "y": _number(y + 0.35 * size)}
        ElementTree.SubElement(self.root, "text", place | style).text = text

    def line(self, points: Sequence[tuple[float, float]], *, arrow: bool = True, dashed: bool = False) -> None:
        """Straight pieces from point to point, with rounded corners."""
        style = {"fill": "none", "stroke": LINE, "stroke-width": "1.3"}
        style |= {"marker-end": "url(#head)"} if arrow else {}
        style |= {"stroke-dasharray": "4 3"} if dashed else {}
        ElementTree.SubElement(self.root, "path", {"d": _rounded(points)} | style)

    def svg(self, width: float, height: float) -> str:
        """The file's text, for a picture of this size."""
        size = {"width": _number(width), "height": _number(height)}
        self.paper.attrib.update(size)
        self.root.attrib.update(size, viewBox=f"0 0 {_number(width)} {_number(height)}")
        ElementTree.indent(self.root, " ")
        return ElementTree.tostring(self.root, encoding="unicode") + "\n"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _rounded(points: Sequence[tuple[float, float]]) -> str:
    (x, y), *_ = points
    parts = [f"M{_number(x)} {_number(y)}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        start, end = _towards(corner, before), _towards(corner, after)
        parts.append(f"L{_pair(start)} Q{_pair(corner)} {_pair(end)}")
    parts.append(f"L{_pair(points[-1])}")
    return " ".join(parts)


def _towards(corner: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """A point near the corner on the way to the other point; the pieces are horizontal or vertical."""
    (x, y), (to_x, to_y) = corner, other
    distance = abs(to_x - x) + abs(to_y - y)
    step = min(TURN, distance / 2) / distance if distance else 0
    return x + (to_x - x) * step, y + (to_y - y) * step


def _pair(point: tuple[float, float]) -> str:
    return f"{_number(point[0])} {_number(point[1])}"
