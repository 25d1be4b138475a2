"""Several runs compared: their measures with intervals, as a chart and a table."""

import math
from collections.abc import Sequence

from transfer.errors import TransferError
from transfer.evaluation import comparison_table
from transfer.evaluation.comparison_table import Table, tabulate
from transfer.evaluation.runs import with_names
from transfer.report import svg
from transfer.report.run_data import RunData
from transfer.report.templates import Section, rendered

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


def _chart(table: Table) -> svg.Chart | None:
    """A line for each run: the first measure with its interval, or with the spread over seeds."""
    name = table.measures[0]
    measure = table.measure(name)
    rows = []
    for row in [row for row in table.rows if name in row.values][:MOST_DRAWN]:
        value = row.values[name]
        of_seeds = (value.value - value.spread, value.value + value.spread)
        rows.append((row.run.name, value.value, *((value.low, value.high) if math.isfinite(value.low) else of_seeds)))
    if not rows:
        return None
    title = f"{measure.title[0].upper()}{measure.title[1:]} with its interval"
    label = f"{measure.title} of {len(rows)} runs; the numbers are in the table below"
    ends = svg.around(number for _, *numbers in rows for number in numbers)
    return svg.row_chart(title, label, rows, measure.title, ends, measure.share)
