"""Several runs beside each other: their measures with intervals, as a picture and a table."""

import math
from collections.abc import Sequence
from typing import Any

from transfer.errors import TransferError
from transfer.evaluation import comparison_table
from transfer.evaluation.comparison_table import Table, tabulate
from transfer.evaluation.runs import with_names
from transfer.report import svg
from transfer.report.run_data import RunData
from transfer.report.sections import Section
from transfer.report.svg import Chart
from transfer.report.templates import rendered

# Runs that are drawn; the table has all.
MOST_DRAWN = 40


def section(runs: Sequence[RunData]) -> Section:
    """What `python -m transfer compare` says of the runs; those that have no rows in common only beside each other."""
    problem, table = None, None
    paths = [run.given for run in runs]
    try:
        table = tabulate(paths)
    except TransferError as error:
        problem = " ".join(str(error).split())
        table = _beside(paths)
    known = {} if table is None else _filled(table)
    html = rendered("comparison.html", **{"problem": problem, "table": None, "chart": None, **known})
    return Section("comparison", "Comparison", html)


def _beside(paths: Sequence[str]) -> Table | None:
    """Each run's own measures, without differences; None where they do not measure the same."""
    try:
        tables = [tabulate([path]) for path in paths]
    except TransferError:
        return None
    first = tables[0]
    if any(one.kind != first.kind for one in tables):
        return None
    rows = [one.rows[0] for one in tables]
    for row, path in zip(rows, with_names(paths), strict=True):
        row.run.name = path[1]
    return first._replace(rows=rows)


def _filled(table: Table) -> dict[str, Any]:
    """What the template shows of a table."""
    rows, left, notes = comparison_table.cells(table)
    return {
        "table": {"head": rows[0], "rows": list(enumerate(rows[1:])), "left": left, "notes": notes},
        "chart": _chart(table),
    }


def _chart(table: Table) -> Chart | None:
    """A line for each run: the first measure with its interval, or with the spread over seeds."""
    name = table.measures[0]
    measure = table.measure(name)
    rows = [(one.run.name, one.values[name]) for one in table.rows if name in one.values][:MOST_DRAWN]
    if not rows:
        return None
    ends = []
    for _, found in rows:
        spread = found.spread if math.isfinite(found.spread) else math.nan
        low, high = (
            (found.low, found.high) if math.isfinite(found.low) else (found.value - spread, found.value + spread)
        )
        ends.append((low, found.value, high))
    count = len(rows)
    frame = svg.Frame(
        svg.around(value for three in ends for value in three), (count - 0.4, -0.6),
        width=560, height=64 + 30 * count, left=170, right=24, top=8, bottom=42,
    )  # fmt: skip
    parts = [svg.axes(frame, measure.title, xticks=svg.named_ticks(frame.x, measure.share), yticks=[])]
    for place, ((title, _), (low, value, high)) in enumerate(zip(rows, ends, strict=True)):
        parts.append(svg.text(frame.left - 10, frame.at_y(place) + 4, svg.short(title, 24), "tick y"))
        parts.append(svg.whisker(frame, place, low, high, 1, upright=False))
        parts.append(svg.dot(frame, value, place, 1, title))
    words = f"{measure.title} of {count} runs; the numbers are in the table below"
    return Chart(f"{measure.title} with its interval", frame, words, svg.joined(parts))
