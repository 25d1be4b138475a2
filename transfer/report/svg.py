"""Charts as SVG, in pieces: a frame with axes, and lines, dots, bars and whiskers in it.

A mark has a class, `s1` … `s8` for a series, and never a colour: those are in `assets/chart.css`.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

# Marks of a series besides its colour: how its line is dashed, and the shape of its dots.
DASHES = ("", "6 5", "1 4.5", "9 5 1 5", "15 5", "8 4.5 1 4.5 1 4.5", "1 8", "3 6")
SERIES = 8
# Series from one that differs most from those before it.
APART = (1, 2, 3, 4, 8, 6, 5, 7)
# Width of a letter of the axes, for placing names.
LETTER = 6.6

Point = tuple[float, float]
ALL: Point = (-math.inf, math.inf)
Ticks = Sequence[tuple[float, str]] | None
# A name, a value and the ends of its interval; the name of a line, and of its points places, values and such ends.
NamedValue = tuple[str, float, float, float]
NamedLine = tuple[str, Sequence[tuple[int, float, float, float]]]


class Frame(NamedTuple):
    """The area of a picture that values lie in.

    Attributes:
        x, y: the values at both ends: left and right, below and above.
        width, height: of the picture.
        left, right, top, bottom: margins around the marks.
    """

    x: Point
    y: Point
    width: float = 420
    height: float = 260
    left: float = 46
    right: float = 16
    top: float = 14
    bottom: float = 40

    def at_x(self, value: float) -> float:
        """The position of a value from the left, pixels."""
        return round(self.left + _share(value, self.x) * (self.width - self.left - self.right), 2)

    def at_y(self, value: float) -> float:
        """The position of a value from above, pixels."""
        height = self.height - self.top - self.bottom
        return round(self.height - self.bottom - _share(value, self.y) * height, 2)


def _share(value: float, ends: Point) -> float:
    low, high = ends
    return (value - low) / (high - low) if high != low else 0.5


class Chart(NamedTuple):
    """A picture with a title and the names of its series.

    Attributes:
        title: plain text above it.
        frame: its size, and where values lie in it.
        label: what it shows, for readers who do not see it.
        marks: what is drawn.
        series: a swatch and a name for each entry of the legend.
        classes: of the picture, where it has a style of its own.
    """

    title: str
    frame: Frame
    label: str
    marks: Markup
    series: Sequence[tuple[Markup, str]] = ()
    classes: str = ""

    @property
    def legend(self) -> Markup:
        """The legend as HTML, to stand above the picture; empty for a single series."""
        items = [
            element("li", element("svg", swatch, viewBox="0 0 26 12", width=26, height=12, aria_hidden="true") + name)
            for swatch, name in self.series
        ]
        return element("ul", joined(items), class_="legend") if items else Markup("")

    def svg(self, **place: float) -> Markup:
        """The picture alone: as wide as there is room, or at `place` (x, y, width and height) of another one."""
        box = f"0 0 {self.frame.width:g} {self.frame.height:g}"
        classes = f"chart {self.classes}".strip()
        return element("svg", self.marks, class_=classes, **place, viewBox=box, role="img", aria_label=self.label)


def element(tag: str, inside: str = "", /, **attributes: Any) -> Markup:
    """An element of SVG or HTML with its values escaped; `class_` is class, `aria_label` is aria-label."""
    written = (Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), attributes[name]) for name in attributes)
    return Markup("<{0}{1}>{2}</{0}>").format(tag, Markup("").join(written), inside)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers within the range, at most six: the multiples of 1, 2, 2.5 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(by for by in (1, 2, 2.5, 5, 10) if power * by >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{place * step:.12g}") for place in range(first, last + 1)]


def named_ticks(ends: Point, percent: bool = False) -> list[tuple[float, str]]:
    """Round numbers within the ends, each with how it is written; `percent`: shares in per cent."""
    return [(value, f"{100 * value:.5g}%" if percent else f"{value:g}") for value in ticks(*ends)]


def around(values: Iterable[float], within: Point = ALL) -> Point:
    """A range that holds the values with some air, cut to `within`; (0, 1) for none."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    air = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    return max(low - air, within[0]), min(high + air, within[1])


def axes(
    frame: Frame, xlabel: str = "", ylabel: str = "", xticks: Ticks = None, yticks: Ticks = None, percent: bool = False
) -> Markup:
    """The two axes with their numbers; `percent` writes shares on the y axis in per cent."""
    xticks = named_ticks(frame.x) if xticks is None else xticks
    yticks = named_ticks(frame.y, percent) if yticks is None else yticks
    left, right, base = frame.left, frame.width - frame.right, frame.height - frame.bottom
    parts = []
    for value, name in yticks:
        y = frame.at_y(value)
        parts.append(element("line", class_="grid", x1=left, x2=right, y1=y, y2=y))
        parts.append(text(left - 7, y + 4, name, "tick y"))
    parts += [text(frame.at_x(value), base + 17, name, "tick x") for value, name in xticks]
    parts.append(element("line", class_="base", x1=left, x2=right, y1=base, y2=base))
    if xlabel:
        parts.append(text((left + right) / 2, frame.height - 5, xlabel, "label x"))
    if ylabel:
        parts.append(text(12, (frame.top + base) / 2, ylabel, "label x", -90))
    return element("g", joined(parts), class_="axes")


def line(frame: Frame, points: Iterable[Point], series: int = 1, *, dots: bool = False) -> Markup:
    """A line through the points that are known, broken where one is not."""
    known = list(points)
    path, pen = [], "M"
    for x, y in known:
        if math.isfinite(y):
            path.append(f"{pen}{frame.at_x(x)} {frame.at_y(y)}")
        pen = "L" if math.isfinite(y) else "M"
    if not path:
        return Markup("")
    dashes = {"stroke_dasharray": dash} if (dash := DASHES[(series - 1) % SERIES]) else {}
    made = element("path", class_=f"line {colour(series)}", **dashes, d=" ".join(path))
    if dots or len(path) == 1:
        made += joined(dot(frame, x, y, series) for x, y in known if math.isfinite(y))
    return made


# Corners of the shapes of a dot that are no circle, for a radius of 1.
SHAPES: Sequence[Sequence[Point]] = (
    (),
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    ((0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
    ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    ((0, 1.2), (1.15, -0.9), (-1.15, -0.9)),
)
RADIUS = 3.4


def dot(frame: Frame, x: float, y: float, series: int = 1, title: str = "", shape: int | None = None) -> Markup:
    """A mark at a point, of its series' shape or of that number of `SHAPES`; `title` is shown by the pointer."""
    left, top = frame.at_x(x), frame.at_y(y)
    corners = SHAPES[(series - 1 if shape is None else shape) % len(SHAPES)]
    look, inside = f"dot {colour(series)}", _title(title)
    if not corners:
        return element("circle", inside, class_=look, cx=left, cy=top, r=RADIUS)
    points = " ".join(f"{left + RADIUS * dx:.2f},{top + RADIUS * dy:.2f}" for dx, dy in corners)
    return element("polygon", inside, class_=look, points=points)


def swatch(series: int, shape: int | None = None, lined: bool = True) -> Markup:
    """The dot of a series with its line, or alone, for a legend."""
    frame = Frame((0, 2), (-1, 1), 26, 12, 1, 1, 1, 1)
    mark = dot(frame, 1, 0, series, shape=shape)
    return line(frame, [(0, 0), (2, 0)], series) + mark if lined else mark


def _title(words: str) -> Markup:
    return element("title", words) if words else Markup("")


def whisker(frame: Frame, x: float, low: float, high: float, series: int = 1, upright: bool = True) -> Markup:
    """An interval as a line with ends: of y values at x, or, not upright, of x values at the height x."""
    if not math.isfinite(high - low):
        return Markup("")
    if upright:
        a, (top, base) = frame.at_x(x), (frame.at_y(high), frame.at_y(low))
        path = f"M{a} {top}V{base}M{a - 3} {top}h6M{a - 3} {base}h6"
    else:
        a, (left, right) = frame.at_y(x), (frame.at_x(low), frame.at_x(high))
        path = f"M{left} {a}H{right}M{left} {a - 4}v8M{right} {a - 4}v8"
    return element("path", class_=f"whisker {colour(series)}", d=path)


def bar(frame: Frame, x: Point, y: Point, title: str) -> Markup:
    """A bar between two values of x and two of y."""
    left, top = frame.at_x(x[0]), frame.at_y(y[1])
    width, height = round(frame.at_x(x[1]) - left, 2), round(frame.at_y(y[0]) - top, 2)
    size = {"width": max(width, 0), "height": max(height, 0)}
    return element("rect", _title(title), class_=f"bar {colour(1)}", x=left, y=top, **size)


def row_chart(
    title: str, label: str, rows: Sequence[NamedValue], xlabel: str, x: Point | None = None, percent: bool = True
) -> Chart:
    """A chart of `rows`, from above: bars from 0 to 1, or dots in the range x.

    `percent`: whether they are shares.
    """
    names = [short(name, 26) for name, *_ in rows]
    height, left = 60 + 22 * len(rows), 16 + LETTER * max(map(len, names))
    frame = Frame(x or (0, 1), (len(rows) - 0.4, -0.6), 560 if x else 480, height, left, right=24, top=6, bottom=42)
    parts = [axes(frame, xlabel, xticks=named_ticks(frame.x, percent), yticks=[])]
    for place, (name, (_, value, low, high)) in enumerate(zip(names, rows, strict=True)):
        if x is None:
            parts.append(bar(frame, (0, value), (place + 0.36, place - 0.36), f"{name}: {value:.1%}"))
        parts.append(whisker(frame, place, low, high, upright=False))
        if x is not None:
            parts.append(dot(frame, value, place, 1, name))
        parts.append(text(left - 8, frame.at_y(place) + 4, name, "y"))
    return Chart(title, frame, label, joined(parts), classes="" if x else "bars")


def line_chart(
    title: str, label: str, names: Sequence[str], lines: Sequence[NamedLine], xlabel: str, percent: bool = True
) -> Chart:
    """A chart of lines over `names`, equally far apart; of each its name, "" for none in the legend, and its points.

    `percent`: whether they are shares.
    """
    flat = max(map(len, names)) <= 5
    ends = around((y for _, points in lines for _, *of_point in points for y in of_point), (0, 1) if percent else ALL)
    frame = Frame((-0.3, len(names) - 0.7), ends, height=300, bottom=40 if flat else 74)
    parts = [axes(frame, xlabel if flat else "", xticks=list(enumerate(names)) if flat else [], percent=percent)]
    for place, name in [] if flat else enumerate(names):
        parts.append(text(frame.at_x(place) + 4, frame.height - frame.bottom + 14, short(name), "tick y", -35))
    for number, (name, points) in enumerate(lines):
        series = apart(number)
        parts.append(line(frame, ((x, y) for x, y, *_ in points), series))
        for x, y, low, high in points:
            if high > low:
                parts.append(whisker(frame, x, low, high, series))
            if math.isfinite(y):
                value = f"{100 * y:.1f}%" if percent else f"{y:.4g}"
                parts.append(dot(frame, x, y, series, f"{name}, {names[x]}: {value}".removeprefix(", ")))
    legend = [(swatch(apart(number)), name) for number, (name, _) in enumerate(lines) if name]
    return Chart(title, frame, label, joined(parts), legend)


def text(x: float, y: float, words: str, classes: str = "", angle: float = 0) -> Markup:
    """Words at a place of the picture, turned by an angle in degrees."""
    place: dict[str, Any] = {"x": round(x, 2), "y": round(y, 2)}
    if angle:
        place = {"transform": f"translate({place['x']} {place['y']}) rotate({angle})"}
    return element("text", words, class_=classes, **place)


def reference(frame: Frame, start: Point, end: Point) -> Markup:
    """A dashed line between two points that says where something would be."""
    (x1, y1), (x2, y2) = ((frame.at_x(x), frame.at_y(y)) for x, y in (start, end))
    return element("line", class_="mark", x1=x1, y1=y1, x2=x2, y2=y2)


def apart(place: int) -> int:
    """The series of the line `place`, from 0, of many."""
    return APART[place % SERIES]


def colour(series: int) -> str:
    """The class of a series' colour."""
    return f"s{(series - 1) % SERIES + 1}"


def joined(parts: Iterable[Markup]) -> Markup:
    """Pieces one after another."""
    return Markup("").join(parts)


def short(name: str, letters: int = 18) -> str:
    """A name that fits, its middle cut: names of one kind differ at their ends."""
    if len(name) <= letters:
        return name
    end = (letters - 1) // 2
    return f"{name[: letters - 1 - end]}…{name[-end:]}"
