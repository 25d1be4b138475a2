"""How little data is enough: accuracy over training images a class, by head and tap."""

import math
from typing import Any

from transfer.report import few_shot_tables, svg
from transfer.report.run_data import RunData
from transfer.report.sections import Options, Section
from transfer.report.svg import Chart
from transfer.report.templates import is_number, rendered


def section(run: RunData, options: Options) -> Section | None:
    """The few-shot protocol; of a run over seeds its first run's."""
    found = _few_shot(run)
    rows = _rows(found)
    if not rows:
        return None
    # earlier versions compared with pixels and random weights apart from the protocol, and named no heads
    one_number = len({(row.get("head"), row.get("per_class")) for row in rows}) == 1
    if "heads" not in found or found.get("baselines") and one_number:
        return _comparison(found, rows)
    return _protocol(found, rows)


def _few_shot(run: RunData) -> dict[str, Any]:
    runs = run.result.get("runs")
    first = runs[0] if isinstance(runs, list) and runs and isinstance(runs[0], dict) else {}
    found = run.result.get("few_shot") or first.get("few_shot")
    return found if isinstance(found, dict) else {}


def _rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    rows = result.get("rows")
    listed = rows if isinstance(rows, list) else []
    return [row for row in listed if isinstance(row, dict) and is_number(row.get("mean"))]


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
    return Section("shots", "Pretrained, random and raw-pixel features", html)


def _protocol(found: dict[str, Any], rows: list[dict[str, Any]]) -> Section:
    html = rendered(
        "shots.html", charts=protocol_charts(found), rows=rows, seeds=found.get("seeds"), select=found.get("select")
    )
    return Section("shots", "Few-shot accuracy", html)


def charts(run: RunData, options: Options) -> list[Chart]:
    """The few-shot protocol; none of a run without."""
    return protocol_charts(_few_shot(run))


def protocol_charts(result: dict[str, Any]) -> list[Chart]:
    """Of each head a line for each tap over images a class, and the other way round where there are several taps.

    Args:
        result: as `transfer.experiment.few_shot.protocol.few_shot` returns it; none of anything else.
    """
    rows = _rows(result) if "heads" in result else []
    taps, heads, shots = (list(dict.fromkeys(row.get(key) for row in rows)) for key in ("tap", "head", "per_class"))
    made = []
    for head in heads:
        of_head = [row for row in rows if row.get("head") == head]
        made.append(_chart(of_head, "tap", taps, "per_class", shots, f"{head}: validation accuracy by images a class"))
        if len(taps) > 2:
            made.append(_chart(of_head, "per_class", shots, "tap", taps, f"{head}: validation accuracy by tap"))
    return made


def _chart(
    rows: list[dict[str, Any]], line: str, lines: list[Any], across: str, places: list[Any], title: str
) -> Chart:
    """A line for each value of `line`, over the values of `across`, equally far apart."""
    means = [row["mean"] + sign * (row.get("spread") or 0.0) for row in rows for sign in (-1, 1)]
    names = {key: {row.get(key): _name(row, key) for row in rows} for key in (line, across)}
    slanted = max(map(len, names[across].values())) > 5
    frame = svg.Frame((-0.3, len(places) - 0.7), svg.around(means, (0, 1)), height=300, bottom=74 if slanted else 40)
    label = "" if slanted else "images a class" if across == "per_class" else across
    ticks = [(place, names[across].get(value, "")) for place, value in enumerate(places)]
    parts = [svg.axes(frame, label, xticks=[] if slanted else ticks, percent=True)]
    parts += [svg.slanted(frame, place, name) for place, name in ticks if slanted]
    legend = []
    for number, value in enumerate(lines):
        name = names[line].get(value, "")
        series = svg.apart(number)
        points = [
            (places.index(row.get(across)), row["mean"], row.get("spread") or 0.0)
            for row in rows
            if row.get(line) == value
        ]
        parts.append(svg.line(frame, ((x, y) for x, y, _ in points), series))
        for x, y, spread in points:
            if spread:
                parts.append(svg.whisker(frame, x, y - spread, y + spread, series))
            parts.append(svg.dot(frame, x, y, series, f"{name}, {ticks[x][1]}: {100 * y:.1f}%"))
        legend.append((svg.swatch(series), name + " a class" * (line == "per_class" and value is not None)))
    words = f"{title}; every number is in the table below"
    return Chart(title, frame, words, svg.joined(parts), legend)


def _name(row: dict[str, Any], key: str) -> str:
    return few_shot_tables.heading(row) if key == "per_class" else str(row.get(key))
