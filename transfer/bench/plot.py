"""Images a second and MFU over batch size, as a picture."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transfer.bench.results import MATMUL
from transfer.bench.table import pixels, significant
from transfer.errors import TransferError
from transfer.report import chart_files, svg
from transfer.report.svg import Chart, Frame

Row = Mapping[str, Any]
OURS = "transfer"


class Line(NamedTuple):
    """A line of the picture: whose (ours or a peer's), of which network, and its points by batch; NaN: not known."""

    who: str
    model: str
    pixels: str
    dtype: str
    batches: list[int]
    images_per_second: list[float]
    mfu: list[float]


# What names a line.
NAMES = ("who", "model", "pixels", "dtype")


def lines(rows: Sequence[Row]) -> list[Line]:
    """Ours of every network; of a network by itself its peers', too. MFU of a peer is ours by its speed."""
    measured = [row for row in rows if row["kind"] == "extractor" and not row["failed"]]
    alone = len({row["model"] for row in measured}) == 1
    points: dict[tuple[str, str, str, str], list[tuple[int, float, float]]] = {}
    for row in measured:
        speeds = {OURS: row["images_per_second"]}
        if alone:
            speeds |= {name: peer["images_per_second"] for name, peer in row["peers"].items() if "ratio" in peer}
        for who, speed in speeds.items():
            share = row["mfu"] or row.get("times_matmul")
            mfu = share * speed / row["images_per_second"] if share else math.nan
            names = who, row["model"], f"{pixels(row['image_size'])} px", row["dtype"]
            points.setdefault(names, []).append((row["batch"], speed, mfu))
    return [Line(*names, *map(list, zip(*sorted(of_line), strict=True))) for names, of_line in points.items()]


def draw(rows: Sequence[Row], path: Path) -> None:
    """Writes the picture: SVG, PNG or PDF by its suffix.

    Raises TransferError where no row has figures, or what makes PNG and PDF is not installed.
    """
    # in the order in which they end, as the legend has them
    drawn = sorted(lines(rows), key=lambda line: -line.images_per_second[-1])
    if not drawn:
        raise TransferError(f"{path}: there is nothing to draw, no row has figures")
    differing = [name for name in NAMES if len({getattr(line, name) for line in drawn}) > 1]
    labels = [", ".join(getattr(line, name) for name in differing) for line in drawn]
    shared = [getattr(drawn[0], name) for name in NAMES[1:] if name not in differing]
    machines = {
        f"{row['processor']}, {row['cores']} cores"
        if row["platform"] == "cpu"
        else f"{row['devices']} x {row['device_kind']}"
        for row in rows
    }
    by_matmul = any(row.get("peak_source") == MATMUL for row in rows)
    speeds = [line.images_per_second for line in drawn]
    charts = [
        _chart("images a second", drawn, labels, speeds),
        _chart(
            "FLOP/s over those of a matmul" if by_matmul else "MFU, of the peak",
            drawn,
            labels,
            [line.mfu for line in drawn],
            percent=True,
        ),
    ]
    title = ", ".join([*shared, *(machines if len(machines) == 1 else ())])
    chart_files.write(path, charts, title=title)


def _chart(
    title: str, drawn: Sequence[Line], labels: Sequence[str], values: Sequence[Sequence[float]], percent: bool = False
) -> Chart:
    """Values over batch size, from zero; logarithmic where speeds lie decades apart, numbered at 1, 2 and 5."""
    known = [value for heights in values for value in heights if math.isfinite(value)]
    decades_apart = not percent and max(known) >= 10 * min(known)
    if decades_apart:
        y = svg.around(map(math.log10, known))
        numbers = [digit * 10.0**power for power in range(-3, 8) for digit in (1, 2, 5)]
        yticks = [(math.log10(n), significant(n)) for n in numbers if y[0] <= math.log10(n) <= y[1]]
    else:
        y, yticks = (0.0, 1.06 * max(known, default=1.0)), None
    batches = sorted({batch for line in drawn for batch in line.batches})
    frame = Frame(svg.around(map(math.log2, batches)), y)
    xticks = [(math.log2(batch), str(batch)) for batch in batches]
    marks = [svg.axes(frame, "batch, images", xticks=xticks, yticks=yticks, percent=percent)]
    for place, (line, heights) in enumerate(zip(drawn, values, strict=True)):
        scaled = map(math.log10, heights) if decades_apart else heights
        points = zip(map(math.log2, line.batches), scaled, strict=True)
        marks.append(svg.line(frame, points, svg.apart(place), dots=True))
    series = [(svg.swatch(svg.apart(place)), label) for place, label in enumerate(labels) if label]
    return Chart(title, frame, f"{title} over batch size", svg.joined(marks), series)
