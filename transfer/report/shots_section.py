"""Few-shot accuracy: over training images a class, by head and tap, or features beside random weights and pixels."""

from typing import Any

from transfer.report import few_shot_tables, svg
from transfer.report.run_data import RunData
from transfer.report.templates import Section, is_number, rendered


def section(run: RunData) -> Section | None:
    """Charts and the table of a run that has few-shot results; of a run over seeds its first run's."""
    of_seeds = run.result.get("runs")
    first = of_seeds[0] if isinstance(of_seeds, list) and of_seeds and isinstance(of_seeds[0], dict) else {}
    result = run.result.get("few_shot") or first.get("few_shot")
    if not isinstance(result, dict) or not (rows := _rows(result)):
        return None
    one_number, charts = _one_number(result, rows), protocol_charts(result)
    values = {key: result.get(key) for key in ("seeds", "select")}
    html = rendered("shots.html", charts=charts, rows=rows, one_number=one_number, **values)
    title = "Pretrained, random and raw-pixel features" if one_number else "Few-shot accuracy"
    return Section("shots", title, html, charts=lambda: charts)


def _rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that have a number; those of earlier versions, which compared one head's features, as of today's."""
    rows = result.get("rows")
    listed = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [
        {"head": "", "per_class": result.get("per_class"), "same_rows": False, "tap": row.get("features"), **row}
        | {"spread": row["spread"] if is_number(row.get("spread")) else None}
        for row in listed
        if is_number(row.get("mean"))
    ]


def _one_number(result: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Whether one head is compared on several features at one number of images a class."""
    alone = len({(row["head"], row["per_class"]) for row in rows}) == 1
    return alone and bool("heads" not in result or result.get("baselines"))


def protocol_charts(result: dict[str, Any]) -> list[svg.Chart]:
    """Charts over images a class: for each head a line a tap, and for each of several taps a line a head.

    Bars where there is but one head and one number of images a class.

    Args:
        result: as `transfer.experiment.few_shot.few_shot` returns it; none of anything else.
    """
    rows = _rows(result)
    if rows and _one_number(result, rows):
        return [_bars(rows)]
    made = []
    for head in few_shot_tables.distinct(rows, "head"):
        of_head = [row for row in rows if row["head"] == head]
        made.append(_chart(of_head, "tap", "per_class", f"{head}: validation accuracy by images a class"))
        if len(few_shot_tables.distinct(rows, "tap")) > 2:
            made.append(_chart(of_head, "per_class", "tap", f"{head}: validation accuracy by tap"))
    return made


def _bars(rows: list[dict[str, Any]]) -> svg.Chart:
    """The accuracy of each of the features, with the standard deviation of one draw."""
    bars = [(str(row["tap"]), *_ends(row)) for row in rows]
    title = f"Validation accuracy, {few_shot_tables.heading(rows[0])} training images a class"
    label = ", ".join(f"{name} {value:.1%}" for name, value, *_ in bars)
    return svg.row_chart(title, label, bars, "validation accuracy")


def _chart(rows: list[dict[str, Any]], line: str, across: str, title: str) -> svg.Chart:
    """A line for each value of `line`, over the values of `across`."""
    write = {"per_class": few_shot_tables.heading, "tap": lambda row: str(row["tap"])}
    names = [{row[key]: write[key](row) for row in rows} for key in (line, across)]
    places = list(names[1])
    lines = [
        (
            name + " a class" * (line == "per_class" and value is not None),
            [(places.index(row[across]), *_ends(row)) for row in rows if row[line] == value],
        )
        for value, name in names[0].items()
    ]
    label, xlabel = f"{title}; every number is in the table below", "tap" if across == "tap" else "images a class"
    return svg.line_chart(title, label, list(names[1].values()), lines, xlabel)


def _ends(row: dict[str, Any]) -> tuple[float, float, float]:
    spread = row["spread"] or 0.0
    return row["mean"], row["mean"] - spread, row["mean"] + spread
