"""Several runs compared: their measures with intervals, as a chart and a table."""

import math
from collections.abc import Sequence

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
    """The comparison of `python -m transfer compare`; runs without rows in common stand only beside each other."""
    problem, paths = None, [run.given for run in runs]
    try:
        table: Table | None = tabulate(paths)
    except TransferError as error:
        problem = " ".join(str(error).split())
        table = _beside(paths)
    shown = None
    if table is not None:
        rows, left, notes = comparison_table.cells(table)
        shown = {"head": rows[0], "rows": list(enumerate(rows[1:])), "left": left, "notes": notes}
    html = rendered("comparison.html", problem=problem, table=shown, chart=None if table is None else _chart(table))
    return Section("comparison", "Comparison", html)


def _beside(paths: Sequence[str]) -> Table | None:
    """The measures of each run, without differences; None where they do not measure the same."""
    try:
        tables = [tabulate([path]) for path in paths]
    except TransferError:
        return None
    if len({table.kind for table in tables}) > 1:
        return None
    rows = [table.rows[0] for table in tables]
    for row, (_, name) in zip(rows, with_names(paths), strict=True):
        row.run.name = name
    return tables[0]._replace(rows=rows)


def _chart(table: Table) -> Chart | None:
    """A line for each run: the first measure with its interval, or with the spread over seeds."""
    name = table.measures[0]
    measure = table.measure(name)
    rows = [(row.run.name, row.values[name]) for row in table.rows if name in row.values][:MOST_DRAWN]
    if not rows:
        return None
    ends = []
    for _, value in rows:
        of_seeds = (value.value - value.spread, value.value + value.spread)
        ends.append((value.low, value.high) if math.isfinite(value.low) else of_seeds)
    frame = svg.Frame(
        svg.around([*(end for pair in ends for end in pair), *(value.value for _, value in rows)]),
        (len(rows) - 0.4, -0.6), width=560, height=64 + 30 * len(rows), left=170, right=24, top=8, bottom=42,
    )  # fmt: skip
    parts = [svg.axes(frame, measure.title, xticks=svg.named_ticks(frame.x, measure.share), yticks=[])]
    for place, ((title, value), (low, high)) in enumerate(zip(rows, ends, strict=True)):
        parts.append(svg.text(frame.left - 10, frame.at_y(place) + 4, svg.short(title, 24), "tick y"))
        parts.append(svg.whisker(frame, place, low, high, 1, upright=False))
        parts.append(svg.dot(frame, value.value, place, 1, title))
    words = f"{measure.title} of {len(rows)} runs; the numbers are in the table below"
    return Chart(f"{measure.title[0].upper()}{measure.title[1:]} with its interval", frame, words, svg.joined(parts))
