"""The report's charts as files for papers: SVG as they are on the page, PNG and PDF by vl-convert."""

import io
import re
from collections.abc import Sequence
from functools import cache
from pathlib import PurePath
from typing import Any

from etils import epath
from markupsafe import Markup
from PIL import Image, PngImagePlugin

from transfer.errors import TransferError
from transfer.report import svg
from transfer.report.svg import Chart
from transfer.report.templates import Section, asset, valid_text
from transfer.runtime.distribution import install_hint
from transfer.runtime.files import atomic
from transfer.runtime.files.atomic import check_output
from transfer.runtime.progress import Progress

SUFFIXES = (".svg", ".png", ".pdf")
# Pixels of a PNG to one of the SVG file.
SCALE = 2
# What tells our files from those of others: in PNG, SVG and PDF.
MADE = (b"tEXtSoftware\0transfer", b"<dc:title>transfer</dc:title>", b"/Creator (transfer)")
# Charts in a row; pixels between charts and around them, and of a line of a legend.
COLUMNS, GAP, LINE = 2, 20, 19
# Width of a letter of a title.
TITLE_LETTER = 7.6


def draw(sections: Sequence[Section], folder: epath.Path, formats: Sequence[str]) -> list[epath.Path]:
    """Writes `curves.png`, `confusion.png`, … into `folder`: the charts of each section that has any; says which.

    Args:
        formats: of "svg", "png", "pdf"; each chart is written in all of them.

    Raises:
        TransferError: PNG or PDF, and vl-convert is not installed.
        UsageError: a picture of that name is there already and is no chart of a run; nothing is written then.
    """
    _converter([f".{form}" for form in formats])
    charts = {section.key: made for section in sections if (made := section.charts())}
    paths = {folder / f"{key}.{form}": made for key, made in charts.items() for form in formats}
    for path in paths:
        check_output(path, lambda content: any(mark in content for mark in MADE), "a chart", "plots")
    folder.mkdir(parents=True, exist_ok=True)
    with Progress("Plots", len(paths), "files") as progress:
        for path, made in paths.items():
            write(path, made)
            progress.update()
    print(f"Plots: {', '.join(path.name for path in paths) or 'none, the run has nothing to draw'} in {folder}")
    return list(paths)


def write(path: Any, charts: Sequence[Chart], *, title: str = "") -> None:
    """Writes charts beside each other, two in a row, to one file: .svg, .png or .pdf by the suffix.

    The same charts give the same bytes, but for the order of a PDF's objects. Raises TransferError where PNG or PDF is
    wanted and vl-convert, which makes them, is not installed.
    """
    suffix = PurePath(path).suffix
    converter, made = _converter([suffix]), document(charts, title)
    if suffix == ".svg":
        atomic.write_text(path, made)
        return
    with atomic.writing(path) as stream:
        if suffix == ".pdf":
            # a comment behind the end, which readers of PDF skip
            stream.write(converter.svg_to_pdf(made) + b"\n%/Creator (transfer)\n")
            return
        facts = PngImagePlugin.PngInfo()
        facts.add_text("Software", "transfer")
        image = Image.open(io.BytesIO(converter.svg_to_png(made, scale=SCALE))).convert("RGB")
        image.save(stream, "PNG", pnginfo=facts, optimize=True)


def _converter(suffixes: Sequence[str]) -> Any:
    """The library that makes PNG and PDF of SVG, if one of them is wanted."""
    if all(suffix == ".svg" for suffix in suffixes):
        return None
    try:
        import vl_convert
    except ImportError as error:
        raise TransferError(f"PNG and PDF need vl-convert: {install_hint('plots')}; SVG needs nothing") from error
    return vl_convert


def document(charts: Sequence[Chart], title: str = "") -> str:
    """An SVG file of charts beside each other, each below its title and its legend, in the light theme's colours."""
    width = max(max(chart.frame.width, TITLE_LETTER * len(chart.title)) for chart in charts)
    top, parts = float(GAP), []
    if title:
        parts.append(svg.text(GAP, top + 12, title, "title"))
        top += LINE + GAP / 2
    for start in range(0, len(charts), COLUMNS):
        row = charts[start : start + COLUMNS]
        headings = [_heading(chart, width) for chart in row]
        below = top + max(height for _, height in headings)
        for place, (chart, (heading, _)) in enumerate(zip(row, headings, strict=True)):
            left = GAP + place * (width + GAP)
            parts.append(svg.element("g", heading, transform=f"translate({left} {top})"))
            parts.append(chart.svg(x=left, y=below, width=chart.frame.width, height=chart.frame.height))
        top = below + max(chart.frame.height for chart in row) + GAP
    size = {"width": f"{GAP + min(COLUMNS, len(charts)) * (width + GAP):g}", "height": f"{top:g}"}
    inside = [
        svg.element("metadata", svg.element("dc:title", "transfer")),
        svg.element("style", Markup(_style())),
        svg.element("rect", class_="paper", **size),
        *parts,
    ]
    spaces = {"xmlns": "http://www.w3.org/2000/svg", "xmlns:dc": "http://purl.org/dc/elements/1.1/"}
    box = f"0 0 {size['width']} {size['height']}"
    return valid_text(svg.element("svg", Markup("\n").join(inside), **spaces, **size, viewBox=box)) + "\n"


def _heading(chart: Chart, width: float) -> tuple[Markup, float]:
    """The title and the legend, as many entries in a line as fit, and how high both are."""
    parts, left, top = [], 0.0, 0.0
    if chart.title:
        parts.append(svg.text(0, 12, chart.title, "title"))
        top = LINE
    for swatch, name in chart.series:
        room = 36 + svg.LETTER * len(name) + 16
        if left and left + room > width:
            left, top = 0.0, top + LINE
        parts.append(svg.element("g", swatch, transform=f"translate({left} {top + 2})"))
        parts.append(svg.text(left + 32, top + 12, name))
        left += room
    return svg.joined(parts), top + LINE * bool(chart.series) + 4 * bool(parts)


@cache
def _style() -> str:
    """`chart.css` with the colours of the light theme instead of variables, which programs other than browsers lack."""
    light = asset("page.css").partition("}")[0]
    colours = dict(re.findall(r"--(\w+): (#\w+)", light))
    rules = ["svg text { font-family: 'Liberation Sans', Arial, sans-serif; }", ".paper { fill: var(--card); }"]
    for rule in re.sub(r"/\*.*?\*/\s*", "", asset("chart.css"), flags=re.S).splitlines():
        selector, _, marks = rule.partition(" {")
        of_series = [f"{selector}.s{i} {{{marks.replace('var(--s)', f'var(--c{i})')}" for i in range(1, svg.SERIES + 1)]
        rules += of_series if "var(--s)" in rule else [rule]
    return re.sub(r"var\(--(\w+)\)", lambda variable: colours[variable[1]], "\n".join(rules))
