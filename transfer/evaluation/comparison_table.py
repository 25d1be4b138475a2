"""A comparison of runs as a table: text for a terminal, Markdown, CSV, and LaTeX for a paper."""

import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from transfer.errors import UsageError
from transfer.evaluation import runs
from transfer.evaluation.compared import SHOWN, Compared, Value, compare
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

    rows: Sequence[Compared]
    kind: str
    measures: Sequence[str]
    resamples: int

    def measure(self, name: str) -> Measure:
        """What is known of a column."""
        return MEASURES[self.kind][name]


def tabulate(paths: Sequence[str], measures: Sequence[str] = (), *, resamples: int = RESAMPLES, seed: int = 0) -> Table:
    """The comparison of runs in workdirs, to be written as `WRITERS` do.

    Args:
        measures: keys of `MEASURES` for what the runs predict, the first of them what differences are of.

    Raises:
        UsageError: a folder that is no run, a measure that the runs do not have, runs that do not predict the same.
        TransferError: a damaged file, no validation row in common with the first run.
    """
    found = runs.load(paths)
    kind = runs.kind_of(found)
    for name in measures:
        if name not in MEASURES[kind]:
            raise UsageError(f"--measure={name}: these runs predict {kind}, which have {', '.join(MEASURES[kind])}")
    chosen = tuple(dict.fromkeys(measures)) or SHOWN[kind]
    return Table(compare(found, kind, chosen, resamples=resamples, seed=seed), kind, chosen, resamples)


def text(table: Table, width: int = WIDTH) -> str:
    """For a terminal: what all runs share above, notes below; names as a list where they would make lines too long."""
    shared = _shared(table)
    above = ["all runs: " + ", ".join(f"{FACTS[key]} {value}" for key, value in shared.items())] if shared else []
    facts, numbers = _columns(table, shared)
    rows = [[*left, *right] for left, right in zip(facts, numbers, strict=True)]
    lines = tables.text(rows, left=len(facts[0])).splitlines()
    if max(map(len, lines)) > width:
        places = ["", *(str(place) for place in range(1, len(facts)))]
        above.append(tables.text([[place, *left] for place, left in zip(places, facts, strict=True)]))
        above.append("")
        lines = [tables.text([[place, *right] for place, right in zip(places, numbers, strict=True)], left=1)]
    return "\n".join([*above, *lines, "", *(_wrapped(line, width) for line in _notes(table))]) + "\n"


def cells(table: Table) -> tuple[list[list[str]], int, list[str]]:
    """Rows of cells, the headings first; how many of the columns are names and facts; and the notes below."""
    facts, numbers = _columns(table, {})
    return [[*left, *right] for left, right in zip(facts, numbers, strict=True)], len(facts[0]), _notes(table)


def _wrapped(line: str, width: int) -> str:
    return textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def markdown(table: Table) -> str:
    """As GitHub shows it."""
    rows, left, notes = cells(table)
    return "\n".join([tables.markdown(rows, left=left), "", *(f"{note}  " for note in notes)]) + "\n"


def separated(table: Table) -> str:
    """As CSV, for programs: numbers in full, shares between 0 and 1, and nothing where nothing is known."""
    first = table.measures[0]
    ends = ("", "_low", "_high", "_spread")
    differences = [f"{first}_difference{end}" for end in ends[:3]]
    heading = ["run", *FACTS, "seeds", *(name + end for name in table.measures for end in ends), *differences]
    lines: list[list[Any]] = [[*heading, "shared_rows", "p", "p_holm", "p_of", "notes"]]
    for one in table.rows:
        unknown = Value(math.nan)
        values = [one.values.get(name, unknown) for name in table.measures]
        numbers = [number for v in values for number in (v.value, v.low, v.high, v.spread)]
        numbers += list(one.difference or [math.nan] * 3)
        facts = [one.run.facts[key] for key in FACTS]
        seeds = len(one.run.samples) or len(next(iter(one.run.recorded.values()), [])) if one.run.over_seeds else ""
        cells = [one.run.path, *facts, seeds, *map(_full, numbers), one.shared or "", _full(one.p), _full(one.p_holm)]
        lines.append([*cells, "" if math.isnan(one.p) else _test(table, one), "; ".join(one.run.notes)])
    return tables.separated(lines)


def _full(number: float) -> str:
    return "" if math.isnan(number) else f"{number:.6g}"


def latex(table: Table) -> str:
    """A `tabular` in the style of booktabs, which wants that package and nothing else."""
    rows, left, notes = cells(table)
    # a minus, not a hyphen
    lines = re.sub(r"(?<![\w.-])-(?=\d)", "$-$", tables.latex(rows, left=left))
    return "\n".join([r"% \usepackage{booktabs}", lines, *(f"% {note}" for note in notes)]) + "\n"


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
    of_fact = {key: {one.run.facts[key] for one in table.rows} for key in FACTS}
    return {key: values.pop() for key, values in of_fact.items() if len(values) == 1 and values != {""}}


def _columns(table: Table, shared: Mapping[str, Any]) -> tuple[list[list[str]], list[list[str]]]:
    """Cells of names and facts, and cells of numbers, each with a row of headings first; facts nobody has left out."""
    keys = [key for key in FACTS if key not in shared and any(one.run.facts[key] for one in table.rows)]
    facts = [["run", *(FACTS[key] for key in keys)]]
    facts += [[one.run.name, *(one.run.facts[key] or NONE for key in keys)] for one in table.rows]
    numbers = [_headings(table)]
    numbers += [_numbers(table, one, first=place == 0) for place, one in enumerate(table.rows)]
    return facts, numbers


def _headings(table: Table) -> list[str]:
    titles = [table.measure(name).title + " %" * table.measure(name).share for name in table.measures]
    if len(table.rows) < 2:
        return titles
    return [*titles, f"difference{' %' * table.measure(table.measures[0]).share}", "p"]


def _numbers(table: Table, one: Compared, first: bool) -> list[str]:
    cells = []
    for place, name in enumerate(table.measures):
        found = one.values.get(name)
        # the interval of every measure would make a line of 150 columns; a file for programs has them
        cells.append(_cell(found, table.measure(name), whole=place == 0) if found else NONE)
    if len(table.rows) < 2:
        return cells
    measure = table.measure(table.measures[0])
    if first or one.difference is None:
        return [*cells, "" if first else NONE, "" if first else _p(one.p_holm)]
    value, low, high = one.difference
    return [*cells, _bracketed(value, low, high, measure.share, "+"), _p(one.p_holm)]


def _cell(found: Value, measure: Measure, whole: bool) -> str:
    if not math.isnan(found.spread):
        return f"{_number(found.value, measure.share)} ± {_number(found.spread, measure.share)}"
    if whole:
        return _bracketed(found.value, found.low, found.high, measure.share, "")
    return _number(found.value, measure.share)


def _bracketed(value: float, low: float, high: float, share: bool, sign: str) -> str:
    if math.isnan(low):
        return _number(value, share, sign)
    return f"{_number(value, share, sign)} [{_number(low, share, sign)}, {_number(high, share, sign)}]"


def _number(value: float, share: bool, sign: str = "") -> str:
    """In per cent with two digits, else with four, or with six in all where they are large."""
    if share:
        return f"{100 * value:{sign}.2f}"
    return f"{value:{sign}.4f}" if abs(value) < 1000 else f"{value:{sign}.6g}"


def _p(value: float) -> str:
    if math.isnan(value):
        return NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _notes(table: Table) -> list[str]:
    """What the numbers are, and what is to be said of single runs."""
    single = any(not math.isnan(v.low) for one in table.rows for v in one.values.values())
    seeds = any(one.run.over_seeds for one in table.rows)
    lines = []
    if single:
        lines.append(_how(table))
    if seeds:
        lines.append("±: mean over the seeds ± standard deviation of one run")
    if any(one.difference or not math.isnan(one.p) for one in table.rows):
        lines.append(
            f"difference: {table.measure(table.measures[0]).title} minus that of {table.rows[0].run.name}, on the same "
            "images" + "; over seeds the mean with Student's t interval" * seeds
        )
    tests = [one for one in table.rows if not math.isnan(one.p)]
    if tests:
        names = {_test(table, one) for one in tests}
        holm = f", by Holm's correction for {len(tests)} comparisons" if len(tests) > 1 else ""
        lines.append(f"p: {' or '.join(sorted(names))}, two-sided{holm}")
    by_note: dict[str, list[str]] = {}
    for one in table.rows:
        for note in one.run.notes:
            by_note.setdefault(note, []).append(one.run.name)
    return lines + [f"{', '.join(names)}: {note}" for note, names in by_note.items()]


def _test(table: Table, one: Compared) -> str:
    """What the p of a run is of."""
    return "a paired t-test over seeds" if one.run.over_seeds else name_of_test(table.measure(table.measures[0]))


def _how(table: Table) -> str:
    """Which intervals the first column and the differences have."""
    measure = table.measure(table.measures[0])
    if measure.by_class:
        return f"[ ]: {CONFIDENCE:.0%} score intervals of the mean over classes"
    how = "basic" if measure.biased else "percentile"
    line = f"[ ]: {CONFIDENCE:.0%} intervals, {how} bootstrap over validation images, {table.resamples} resamples"
    if measure.biased:
        line += "; no test of calibration: of a calibrated run three or four in ten intervals leave 0 out"
    if measure.hits is not None:
        line += f"; where fewer than {FEW} images decide, Wilson's" + ", of differences Agresti and Min's" * (
            len(table.rows) > 1
        )
    return line
