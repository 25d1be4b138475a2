"""Few-shot accuracy: over training images a class, by head and tap, or features beside random weights and pixels."""

from typing import Any

from transfer.report import few_shot_tables, svg
from transfer.report.run_data import RunData
from transfer.report.sections import Options, Section
from transfer.report.svg import Chart
from transfer.report.templates import is_number, rendered

KEY = "shots"


def section(run: RunData, options: Options) -> Section | None:
    """Charts and the table of a run that has few-shot results; of a run over seeds its first run's."""
    result = _few_shot(run)
    rows = _rows(result)
    if not rows:
        return None
    one_number = _one_number(result, rows)
    html = rendered("shots.html", charts=protocol_charts(result), rows=rows, seeds=result.get("seeds"),
                    select=result.get("select"), one_number=one_number)  # fmt: skip
    return Section(KEY, "Pretrained, random and raw-pixel features" if one_number else "Few-shot accuracy", html)


def charts(run: RunData, options: Options) -> list[Chart]:
    """Those of the few-shot results; none of a run without."""
    return protocol_charts(_few_shot(run))


def _few_shot(run: RunData) -> dict[str, Any]:
    runs = run.result.get("runs")
    first = runs[0] if isinstance(runs, list) and runs and isinstance(runs[0], dict) else {}
    result = run.result.get("few_shot") or first.get("few_shot")
    return result if isinstance(result, dict) else {}


def _rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that have a number; those of earlier versions, which compared one head's features, as of today's."""
    rows = result.get("rows")
    usual = {"head": "", "per_class": result.get("per_class"), "same_rows": False}
    listed = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [
        {**usual, "tap": row.get("features"), **row, "spread": row["spread"] if is_number(row.get("spread")) else None}
        for row in listed
        if is_number(row.get("mean"))
    ]


def _one_number(result: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Whether one head is compared on several features at one number of images a class."""
    alone = len({(row["head"], row["per_class"]) for row in rows}) == 1
    return alone and bool("heads" not in result or result.get("baselines"))


def protocol_charts(result: dict[str, Any]) -> list[Chart]:
    """Charts over images a class: for each head a line a tap, and for each of several taps a line a head.

    Bars where there is but one head and one number of images a class.

    Args:
        result: as `transfer.experiment.few_shot.protocol.few_shot` returns it; none of anything else.
    """
    rows = _rows(result)
    if rows and _one_number(result, rows):
        return [_bars(rows)]
    taps, heads, shots = (list(dict.fromkeys(row[key] for row in rows)) for key in ("tap", "head", "per_class"))
    made = []
    for head in heads:
        of_head = [row for row in rows if row["head"] == head]
        made.append(_chart(of_head, "tap", taps, "per_class", shots, f"{head}: validation accuracy by images a class"))
        if len(taps) > 2:
            made.append(_chart(of_head, "per_class", shots, "tap", taps, f"{head}: validation accuracy by tap"))
    return made


def _bars(rows: list[dict[str, Any]]) -> Chart:
    """The accuracy of each of the features, with the standard deviation of one draw."""
    spreads = [row["spread"] or 0.0 for row in rows]
    bars = [
        (str(row["tap"]), row["mean"], row["mean"] - spread, row["mean"] + spread)
        for row, spread in zip(rows, spreads, strict=True)
    ]
    title = f"Validation accuracy, {few_shot_tables.heading(rows[0])} training images a class"
    label = ", ".join(f"{name} {value:.1%}" for name, value, *_ in bars)
    return Chart(title, *svg.horizontal_bars(bars, "validation accuracy", label), classes="bars")


def _chart(
    rows: list[dict[str, Any]], line: str, lines: list[Any], across: str, places: list[Any], title: str
) -> Chart:
    """A line for each value of `line`, over the values of `across`, equally far apart."""
    means = [row["mean"] + sign * (row["spread"] or 0.0) for row in rows for sign in (-1, 1)]
    names = {key: {row[key]: _name(row, key) for row in rows} for key in (line, across)}
    slanted = max(map(len, names[across].values())) > 5
    frame = svg.Frame((-0.3, len(places) - 0.7), svg.around(means, (0, 1)), height=300, bottom=74 if slanted else 40)
    label = "" if slanted else "images a class" if across == "per_class" else across
    ticks = [(place, names[across][value]) for place, value in enumerate(places)]
    parts = [svg.axes(frame, label, xticks=[] if slanted else ticks, percent=True)]
    parts += [svg.slanted(frame, place, name) for place, name in ticks if slanted]
    legend = []
    for number, value in enumerate(lines):
        name = names[line][value]
        series = svg.apart(number)
        points = [(places.index(row[across]), row["mean"], row["spread"] or 0.0) for row in rows if row[line] == value]
        parts.append(svg.line(frame, ((x, y) for x, y, _ in points), series))
        for x, y, spread in points:
            if spread:
                parts.append(svg.whisker(frame, x, y - spread, y + spread, series))
            parts.append(svg.dot(frame, x, y, series, f"{name}, {ticks[x][1]}: {100 * y:.1f}%"))
        legend.append((svg.swatch(series), name + " a class" * (line == "per_class" and value is not None)))
    words = f"{title}; every number is in the table below"
    return Chart(title, frame, words, svg.joined(parts), legend)


def _name(row: dict[str, Any], key: str) -> str:
    return few_shot_tables.heading(row) if key == "per_class" else str(row[key])
