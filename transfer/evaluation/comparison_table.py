"""A comparison of runs as a table: text for a terminal, Markdown, CSV, and LaTeX for a paper."""

import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from transfer.errors import UsageError
from transfer.evaluation import runs
from transfer.evaluation.differences import SHOWN, ComparedRun, Value, compare
from transfer.evaluation.intervals import CONFIDENCE, FEW, RESAMPLES
from transfer.evaluation.measures import MEASURES, Measure
from transfer.evaluation.paired import name_of_test
from transfer.runtime import tables

# Facts of a run -> how a heading has them.
FACTS = {"model": "model", "tap": "tap", "head": "head", "rows": "images"}
NONE = "-"
WIDTH = 100


class Table(NamedTuple):
    """A comparison, to be written in one form or another.

    Attributes:
        kind: what the runs predict.
        measures: the columns, by name; the first is what differences are of.
        resamples: of the bootstrap.
    """

    rows: Sequence[ComparedRun]
    kind: str
    measures: Sequence[str]
    resamples: int

    def measure(self, name: str) -> Measure:
        """The measure of a column."""
        return MEASURES[self.kind][name]


def tabulate(paths: Sequence[str], measures: Sequence[str] = (), *, resamples: int = RESAMPLES, seed: int = 0) -> Table:
    """The comparison of runs in workdirs, to be written as `WRITERS` do.

    Args:
        measures: keys of `MEASURES` for what the runs predict, the first of them what differences are of.

    Raises:
        UsageError: a folder that is no run, a measure that the runs do not have, runs that do not predict the same.
        TransferError: a damaged file, no validation row in common with the first run.
    """
    loaded = runs.load(paths)
    kind = runs.kind_of(loaded)
    for name in measures:
        if name not in MEASURES[kind]:
            raise UsageError(f"--measure={name}: these runs predict {kind}, which have {', '.join(MEASURES[kind])}")
    chosen = tuple(dict.fromkeys(measures)) or SHOWN[kind]
    return Table(compare(loaded, kind, chosen, resamples=resamples, seed=seed), kind, chosen, resamples)


def text(table: Table, width: int = WIDTH) -> str:
    """The table for a terminal: shared facts above, notes below; names as a list where lines would be too long."""
    shared = _shared(table)
    above = ["all runs: " + ", ".join(f"{FACTS[key]} {value}" for key, value in shared.items())] if shared else []
    facts, numbers = _columns(table, shared)
    lines = tables.text(_beside(facts, numbers), left=len(facts[0])).splitlines()
    if max(map(len, lines)) > width:
        places = [[""], *([str(place)] for place in range(1, len(facts)))]
        above += [tables.text(_beside(places, facts)), ""]
        lines = [tables.text(_beside(places, numbers), left=1)]
    notes = (
        textwrap.fill(note, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for note in _notes(table)
    )
    return "\n".join([*above, *lines, "", *notes]) + "\n"


def cells(table: Table) -> tuple[list[list[str]], int, list[str]]:
    """Rows of cells, the headings first; how many of the columns are names and facts; and the notes below."""
    facts, numbers = _columns(table, {})
    return _beside(facts, numbers), len(facts[0]), _notes(table)


def _beside(left: list[list[str]], right: list[list[str]]) -> list[list[str]]:
    return [[*a, *b] for a, b in zip(left, right, strict=True)]


def markdown(table: Table) -> str:
    """The table in Markdown."""
    rows, left, notes = cells(table)
    return "\n".join([tables.markdown(rows, left=left), "", *(f"{note}  " for note in notes)]) + "\n"


def latex(table: Table) -> str:
    """A `tabular` in the style of booktabs, which wants that package and nothing else."""
    rows, left, notes = cells(table)
    # a minus, not a hyphen
    lines = re.sub(r"(?<![\w.-])-(?=\d)", "$-$", tables.latex(rows, left=left))
    return "\n".join([r"% \usepackage{booktabs}", lines, *(f"% {note}" for note in notes)]) + "\n"


def separated(table: Table) -> str:
    """The table as CSV, for programs: numbers in full, shares between 0 and 1, empty cells for what is unknown."""

    def full(number: float) -> str:
        return "" if math.isnan(number) else f"{number:.6g}"

    ends = ("", "_low", "_high", "_spread")
    heading = ["run", *FACTS, "seeds", *(name + end for name in table.measures for end in ends)]
    heading += [f"{table.measures[0]}_difference{end}" for end in ends[:3]]
    lines: list[list[Any]] = [[*heading, "shared_rows", "p", "p_holm", "p_of", "notes"]]
    for row in table.rows:
        run, values = row.run, [row.values.get(name, Value(math.nan)) for name in table.measures]
        numbers = [number for v in values for number in (v.value, v.low, v.high, v.spread)]
        numbers += list(row.difference or [math.nan] * 3)
        seeds = (len(run.samples) or len(next(iter(run.recorded.values()), []))) if run.over_seeds else ""
        facts = [run.path, *(run.facts[key] for key in FACTS), seeds]
        test = "" if math.isnan(row.p) else _test(table, row)
        lines.append(
            [*facts, *map(full, numbers), row.shared or "", full(row.p), full(row.p_holm), test, "; ".join(run.notes)]
        )
    return tables.separated(lines)


# Suffix of a file -> what writes it.
WRITERS: Mapping[str, Callable[[Table], str]] = {
    ".txt": text,
    ".md": markdown,
    ".csv": separated,
    ".tex": latex,
}


def _shared(table: Table) -> dict[str, str]:
    """The facts that several runs have alike."""
    if len(table.rows) < 2:
        return {}
    of_fact = {key: {row.run.facts[key] for row in table.rows} for key in FACTS}
    return {key: values.pop() for key, values in of_fact.items() if len(values) == 1 and values != {""}}


def _columns(table: Table, shared: Mapping[str, Any]) -> tuple[list[list[str]], list[list[str]]]:
    """Cells of names and facts, and cells of numbers, each with a row of headings first; facts nobody has left out."""
    keys = [key for key in FACTS if key not in shared and any(row.run.facts[key] for row in table.rows)]
    facts = [["run", *(FACTS[key] for key in keys)]]
    facts += [[row.run.name, *(row.run.facts[key] or NONE for key in keys)] for row in table.rows]
    measures = [table.measure(name) for name in table.measures]
    numbers = [[measure.title + " %" * measure.share for measure in measures]]
    for row in table.rows:
        # the interval of every measure would make a line of 150 columns; a file for programs has them
        of_run = zip([row.values.get(name) for name in table.measures], measures, strict=True)
        numbers.append([_cell(v, m, whole=place == 0) if v else NONE for place, (v, m) in enumerate(of_run)])
    if len(table.rows) > 1:
        share = measures[0].share
        numbers[0] += [f"difference{' %' * share}", "p"]
        numbers[1] += ["", ""]
        for cells_of_row, row in zip(numbers[2:], table.rows[1:], strict=True):
            change = _bracketed(*row.difference, share, "+") if row.difference else NONE
            p = NONE if math.isnan(row.p_holm) else "<0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}"
            cells_of_row += [change, p if row.difference else NONE]
    return facts, numbers


def _cell(value: Value, measure: Measure, whole: bool) -> str:
    if not math.isnan(value.spread):
        return f"{_number(value.value, measure.share)} ± {_number(value.spread, measure.share)}"
    return _bracketed(value.value, *((value.low, value.high) if whole else (math.nan, math.nan)), measure.share)


def _bracketed(value: float, low: float, high: float, share: bool, sign: str = "") -> str:
    """A number with the ends of its interval, where there is one."""
    interval = "" if math.isnan(low) else f" [{_number(low, share, sign)}, {_number(high, share, sign)}]"
    return _number(value, share, sign) + interval


def _number(value: float, share: bool, sign: str = "") -> str:
    """A number in per cent with two digits, else with four, or with six in all where it is large."""
    if share:
        return f"{100 * value:{sign}.2f}"
    return f"{value:{sign}.4f}" if abs(value) < 1000 else f"{value:{sign}.6g}"


def _notes(table: Table) -> list[str]:
    """Notes on the numbers and on single runs."""
    lines = []
    if any(not math.isnan(v.low) for row in table.rows for v in row.values.values()):
        lines.append(_intervals(table))
    seeds = any(row.run.over_seeds for row in table.rows)
    if seeds:
        lines.append("±: mean over the seeds ± standard deviation of one run")
    tests = [row for row in table.rows if not math.isnan(row.p)]
    if tests or any(row.difference for row in table.rows):
        title, over_seeds = table.measure(table.measures[0]).title, "; over seeds the mean with Student's t interval"
        lines.append(
            f"difference: {title} minus that of {table.rows[0].run.name}, on the same images{over_seeds * seeds}"
        )
    if tests:
        holm = f", by Holm's correction for {len(tests)} comparisons" if len(tests) > 1 else ""
        lines.append(f"p: {' or '.join(sorted({_test(table, row) for row in tests}))}, two-sided{holm}")
    by_note: dict[str, list[str]] = {}
    for row in table.rows:
        for note in row.run.notes:
            by_note.setdefault(note, []).append(row.run.name)
    return lines + [f"{', '.join(names)}: {note}" for note, names in by_note.items()]


def _test(table: Table, row: ComparedRun) -> str:
    """The name of the test that a run's p is of."""
    return "a paired t-test over seeds" if row.run.over_seeds else name_of_test(table.measure(table.measures[0]))


def _intervals(table: Table) -> str:
    """Which intervals the first column and the differences have."""
    measure = table.measure(table.measures[0])
    if measure.by_class:
        return f"[ ]: {CONFIDENCE:.0%} score intervals of the mean over classes"
    how = "basic" if measure.biased else "percentile"
    line = f"[ ]: {CONFIDENCE:.0%} intervals, {how} bootstrap over validation images, {table.resamples} resamples"
    if measure.biased:
        line += "; no test of calibration: of a calibrated run three or four in ten intervals leave 0 out"
    if measure.hits is not None:
        line += f"; where fewer than {FEW} images decide, Wilson's"
        line += ", of differences Agresti and Min's" * (len(table.rows) > 1)
    return line
