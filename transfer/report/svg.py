"""Charts as SVG, in pieces: a frame with axes, and lines, dots, bands and whiskers in it.

Colours come from the page (`assets/page.css`): a mark has a class, `s1` … `s8` for a series, and never a colour.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

# Marks of a series besides its colour: how its line is dashed, and the shape of its dots.
DASHES = ("", "6 4", "2 3", "9 3 2 3", "12 4", "4 2 1 2", "1 4", "8 2")
SERIES = 8
# Series from one that differs most from those before it.
APART = (1, 2, 3, 4, 8, 6, 5, 7)
# Width of a letter of the axes, for placing names.
LETTER = 6.6

Point = tuple[float, float]


class Frame(NamedTuple):
    """Where values lie in the picture.

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
        """Where a value is, from the left."""
        low, high = self.x
        share = (value - low) / (high - low) if high != low else 0.5
        return round(self.left + share * (self.width - self.left - self.right), 2)

    def at_y(self, value: float) -> float:
        """Where a value is, from above."""
        low, high = self.y
        share = (value - low) / (high - low) if high != low else 0.5
        return round(self.height - self.bottom - share * (self.height - self.top - self.bottom), 2)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers within the range, about so many."""
    if not high > low:
        return [low]
    rough = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((power * by for by in (1, 2, 2.5, 5) if power * by >= rough * 0.999), 10 * power)
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 12) for place in range(first, math.floor(high / step + 1e-9) + 1)]


def around(values: Iterable[float], within: Point = (-math.inf, math.inf)) -> Point:
    """A range that holds the values with some air, cut to `within`; (0, 1) for none."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    air = 0.06 * (high - low) or 0.05 * abs(high) or 0.5
    return max(low - air, within[0]), min(high + air, within[1])


def axes(
    frame: Frame,
    xlabel: str = "",
    ylabel: str = "",
    *,
    xticks: Sequence[tuple[float, str]] | None = None,
    yticks: Sequence[tuple[float, str]] | None = None,
    percent: bool = False,
) -> Markup:
    """Both axes with their numbers; `percent` writes shares on the y axis in per cent."""
    if xticks is None:
        xticks = [(value, written(value)) for value in ticks(*frame.x)]
    if yticks is None:
        values = ticks(*frame.y)
        yticks = [(value, f"{100 * value:.5g}%" if percent else written(value)) for value in values]
    left, right = frame.left, frame.width - frame.right
    base = frame.height - frame.bottom
    parts = [Markup('<g class="axes">')]
    for value, name in yticks:
        y = frame.at_y(value)
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(left, right, y, y))
        parts.append(Markup('<text class="tick y" x="{}" y="{}">{}</text>').format(left - 7, y + 4, name))
    for value, name in xticks:
        parts.append(Markup('<text class="tick x" x="{}" y="{}">{}</text>').format(frame.at_x(value), base + 17, name))
    parts.append(Markup('<line class="base" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(left, right, base, base))
    middle = (left + right) / 2
    if xlabel:
        parts.append(Markup('<text class="label x" x="{}" y="{}">{}</text>').format(middle, frame.height - 5, xlabel))
    if ylabel:
        place = f"translate(12 {(frame.top + base) / 2}) rotate(-90)"
        parts.append(Markup('<text class="label x" transform="{}">{}</text>').format(place, ylabel))
    return joined(parts) + Markup("</g>")


def line(frame: Frame, points: Iterable[Point], series: int = 1, name: str = "", *, dots: bool = False) -> Markup:
    """A line through the points that are known, broken where one is not, with its name at its end."""
    known = list(points)
    path, pen = [], "M"
    for x, y in known:
        if math.isfinite(y):
            path.append(f"{pen}{frame.at_x(x)} {frame.at_y(y)}")
        pen = "L" if math.isfinite(y) else "M"
    if not path:
        return Markup("")
    made = Markup('<path class="line {}" stroke-dasharray="{}" d="{}"/>').format(
        colour(series), DASHES[(series - 1) % SERIES], " ".join(path)
    )
    if dots or len(path) == 1:
        made += joined(dot(frame, x, y, series) for x, y in known if math.isfinite(y))
    if name:
        x, y = next((x, y) for x, y in reversed(known) if math.isfinite(y))
        made += text(frame.at_x(x) + 6, frame.at_y(y) + 4, name, f"end {colour(series)}")
    return made


def dot(frame: Frame, x: float, y: float, series: int = 1, title: str = "") -> Markup:
    """A mark at a point, of its series' shape; `title` is shown by the pointer."""
    at, down, shape = frame.at_x(x), frame.at_y(y), (series - 1) % 4
    if shape == 0:
        mark = Markup('<circle class="dot {}" cx="{}" cy="{}" r="3.4">').format(colour(series), at, down)
    elif shape == 1:
        mark = Markup('<rect class="dot {}" x="{}" y="{}" width="6" height="6">').format(
            colour(series), round(at - 3, 2), round(down - 3, 2)
        )
    else:
        up = -1 if shape == 2 else 1
        corners = f"{at - 4:.2f},{down - 3 * up:.2f} {at + 4:.2f},{down - 3 * up:.2f} {at},{down + 4 * up:.2f}"
        mark = Markup('<polygon class="dot {}" points="{}">').format(colour(series), corners)
    end = {0: "circle", 1: "rect"}.get(shape, "polygon")
    inside = Markup("<title>{}</title>").format(title) if title else Markup("")
    return mark + inside + Markup("</{}>").format(end)


def whisker(frame: Frame, x: float, low: float, high: float, series: int = 1, upright: bool = True) -> Markup:
    """An interval as a line with ends: of y values at x, or, not upright, of x values at the height x."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return Markup("")
    if upright:
        a, (top, base) = frame.at_x(x), (frame.at_y(high), frame.at_y(low))
        path = f"M{a} {top}V{base}M{a - 3} {top}h6M{a - 3} {base}h6"
    else:
        a, (left, right) = frame.at_y(x), (frame.at_x(low), frame.at_x(high))
        path = f"M{left} {a}H{right}M{left} {a - 4}v8M{right} {a - 4}v8"
    return Markup('<path class="whisker {}" d="{}"/>').format(colour(series), path)


def bar(frame: Frame, x: float, width: float, y: float, series: int = 1, title: str = "") -> Markup:
    """A bar from the axis up to y, `width` in values of x, centred."""
    left, right, top = frame.at_x(x - width / 2), frame.at_x(x + width / 2), frame.at_y(y)
    height = max(0.0, frame.height - frame.bottom - top)
    inside = Markup("<title>{}</title>").format(title) if title else Markup("")
    box = Markup('<rect class="bar {}" x="{}" y="{}" width="{}" height="{}">').format(
        colour(series), left, top, round(right - left, 2), round(height, 2)
    )
    return box + inside + Markup("</rect>")


def band(frame: Frame, rows: Iterable[tuple[float, float, float]], series: int = 1) -> Markup:
    """The area between (x, low, high)."""
    known = [(x, low, high) for x, low, high in rows if math.isfinite(low) and math.isfinite(high)]
    if not known:
        return Markup("")
    there = [f"{frame.at_x(x)},{frame.at_y(high)}" for x, _, high in known]
    back = [f"{frame.at_x(x)},{frame.at_y(low)}" for x, low, _ in reversed(known)]
    return Markup('<polygon class="band {}" points="{}"/>').format(colour(series), " ".join(there + back))


def text(x: float, y: float, words: str, classes: str = "") -> Markup:
    """Words at a place of the picture."""
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(classes, round(x, 2), round(y, 2), words)


def slanted(frame: Frame, value: float, name: str) -> Markup:
    """A name below the x axis that is too long to lie flat."""
    place = f"translate({frame.at_x(value) + 4} {frame.height - frame.bottom + 14}) rotate(-35)"
    inside = Markup('<text class="tick y" transform="{}">{}<title>{}</title></text>')
    return inside.format(place, short(name), name)


def chart(frame: Frame, label: str, *parts: Markup, classes: str = "") -> Markup:
    """The picture; `label` says what it shows to who does not see it."""
    return Markup('<svg class="chart {}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        classes, f"{frame.width:g}", f"{frame.height:g}", label, joined(parts)
    )


def legend(names: Sequence[str]) -> Markup:
    """The names of the series of `APART`, each beside its line and dot; HTML that goes above a chart."""
    swatch = Frame((0, 2), (-1, 1), 26, 12, 1, 1, 1, 1)
    items = []
    for place, name in enumerate(names):
        series = apart(place)
        mark = line(swatch, [(0, 0), (2, 0)], series) + dot(swatch, 1, 0, series)
        items.append(
            Markup('<li><svg viewBox="0 0 26 12" width="26" height="12" aria-hidden="true">{}</svg>{}</li>').format(
                mark, name
            )
        )
    return Markup('<ul class="legend">{}</ul>').format(joined(items))


def apart(place: int) -> int:
    """The series of the line `place`, from 0, of many."""
    return APART[place % SERIES]


def colour(series: int) -> str:
    """The class of a series' colour."""
    return f"s{(series - 1) % SERIES + 1}"


def written(value: float) -> str:
    """A number on an axis."""
    return f"{value:g}"


def joined(parts: Iterable[Markup]) -> Markup:
    """Pieces one after another."""
    return Markup("").join(parts)


def short(name: str, letters: int = 18) -> str:
    """A name that fits."""
    return name if len(name) <= letters else name[: letters - 1] + "…"
