"""How little data is enough: accuracy over training images a class, by head and tap."""

import math
from typing import Any

from transfer.report import svg
from transfer.report.run_data import RunData
from transfer.report.sections import Options, Section
from transfer.report.templates import is_number, rendered


def section(run: RunData, options: Options) -> Section | None:
    """The few-shot protocol; of a run over seeds its first run's."""
    runs = run.result.get("runs")
    first = runs[0] if isinstance(runs, list) and runs and isinstance(runs[0], dict) else {}
    found = run.result.get("few_shot") or first.get("few_shot")
    if not isinstance(found, dict) or not isinstance(found.get("rows"), list):
        return None
    rows = [row for row in found["rows"] if isinstance(row, dict) and is_number(row.get("mean"))]
    if not rows:
        return None
    # earlier versions compared with pixels and random weights apart from the protocol, and named no heads
    one_number = len({(row.get("head"), row.get("per_class")) for row in rows}) == 1
    if "heads" not in found or found.get("baselines") and one_number:
        return _comparison(found, rows)
    return _protocol(found, rows)


def _comparison(found: dict[str, Any], rows: list[dict[str, Any]]) -> Section:
    """Features beside random weights and pixels, by one head at one number of images a class: a bar for each."""
    ends = [(row["mean"], row.get("spread") or 0.0) for row in rows]
    low = min(mean - spread for mean, spread in ends)
    start = max(0.0, math.floor(10 * low) / 10 - 0.1)
    bars = [
        {
            "name": str(row.get("features", row.get("tap"))),
            "size": row.get("size"),
            "mean": row["mean"],
            "spread": row.get("spread"),
            "width": 100 * max(0.0, row["mean"] - start) / (1 - start),
            "left": 100 * max(0.0, row["mean"] - spread - start) / (1 - start),
            "error": 100 * 2 * spread / (1 - start),
        }
        for row, (_, spread) in zip(rows, ends, strict=True)
    ]
    images = rows[0].get("per_class", found.get("per_class")) if "heads" in found else found.get("per_class")
    images = "all" if images is None else images
    html = rendered("shots_bars.html", bars=bars, start=start, images=images, seeds=found.get("seeds"))
    return Section("shots", "What pretraining is worth", html)


def _protocol(found: dict[str, Any], rows: list[dict[str, Any]]) -> Section:
    taps = list(dict.fromkeys(row.get("tap") for row in rows))
    heads = list(dict.fromkeys(row.get("head") for row in rows))
    shots = list(dict.fromkeys(row.get("per_class") for row in rows))
    charts = []
    for head in heads:
        of_head = [row for row in rows if row.get("head") == head]
        charts.append(_chart(of_head, "tap", taps, "per_class", shots, f"{head}: over images a class"))
        if len(taps) > 2:
            charts.append(_chart(of_head, "per_class", shots, "tap", taps, f"{head}: over depth"))
    html = rendered("shots.html", charts=charts, rows=rows, seeds=found.get("seeds"), select=found.get("select"))
    return Section("shots", "Accuracy over training images", html)


def _chart(
    rows: list[dict[str, Any]], line: str, lines: list[Any], across: str, places: list[Any], title: str
) -> dict[str, Any]:
    """A line for each value of `line`, over the values of `across`, equally far apart."""
    means = [row["mean"] + sign * (row.get("spread") or 0.0) for row in rows for sign in (-1, 1)]
    slanted = max(len(_name(place)) for place in places) > 5
    frame = svg.Frame((-0.3, len(places) - 0.7), svg.around(means, (0, 1)), height=300, bottom=74 if slanted else 40)
    parts = []
    for number, name in enumerate(lines):
        series = svg.apart(number)
        own = [row for row in rows if row.get(line) == name]
        points = [(places.index(row.get(across)), row["mean"], row.get("spread") or 0.0) for row in own]
        parts.append(svg.line(frame, ((x, y) for x, y, _ in points), series))
        for x, y, spread in points:
            if spread:
                parts.append(svg.whisker(frame, x, y - spread, y + spread, series))
            parts.append(svg.dot(frame, x, y, series, f"{_name(name)}, {_name(places[x])}: {100 * y:.1f}%"))
    ticks = [] if slanted else [(place, _name(name)) for place, name in enumerate(places)]
    names = [svg.slanted(frame, place, _name(name)) for place, name in enumerate(places)] if slanted else []
    label = "" if slanted else "images a class" if across == "per_class" else across
    words = f"Validation accuracy, {title}; every number is in the table below"
    legend = [_name(name) + (" a class" if line == "per_class" and name is not None else "") for name in lines]
    return {
        "title": title,
        "legend": svg.legend(legend),
        "svg": svg.chart(frame, words, svg.axes(frame, label, xticks=ticks, percent=True), *names, *parts),
    }


def _name(value: Any) -> str:
    return "all" if value is None else str(value)
