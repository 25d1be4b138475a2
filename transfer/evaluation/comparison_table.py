"""Runs compared: each with its intervals, its difference to the first on the rows that both have, and all as a table.

Text for a terminal, Markdown, CSV, and LaTeX for a paper.
"""

import dataclasses
import math
import re
import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from transfer.errors import TransferError, UsageError
from transfer.evaluation import paired, runs
from transfer.evaluation.intervals import CONFIDENCE, FEW, RESAMPLES, interval_of, resampled
from transfer.evaluation.measures import MEASURES, Measure, value
from transfer.evaluation.paired import Difference
from transfer.evaluation.predictions import Predictions
from transfer.evaluation.runs import Run
from transfer.runtime import tables

# What is shown of each kind where nothing else is asked for; by the first of them runs are compared.
SHOWN = {
    "classes": ("accuracy", "log_loss", "ece"),
    "labels": ("mean_average_precision", "log_loss"),
    "values": ("rmse", "r2"),
}
# Facts of a run -> how a heading has them.
FACTS = {"model": "model", "tap": "tap", "head": "head", "rows": "images"}
NONE = "-"
WIDTH = 100


@dataclasses.dataclass
class Value:
    """A measure: of a single run with the ends of its interval, over seeds the mean with the spread of one run."""

    value: float
    low: float = math.nan
    high: float = math.nan
    spread: float = math.nan


@dataclasses.dataclass
class ComparedRun:
    """A run among others."""

    run: Run
    values: dict[str, Value]  # by measure; those that the run does not have are not there
    difference: Difference | None = None  # to the first run, of the first measure; None for the first, or without one
    shared: int = 0  # rows that the difference is of
    p: float = math.nan  # whether it may be chance, see `paired.chance`; over seeds that of a paired t-test
    p_holm: float = math.nan  # p corrected for the number of comparisons


class Table(NamedTuple):
    """A comparison, to be written in one form or another."""

    rows: Sequence[ComparedRun]
    kind: str  # what the runs predict
    measures: Sequence[str]  # the columns, by name; the first is what differences are of
    resamples: int  # of the bootstrap

    def measure(self, name: str) -> Measure:
        """The measure of a column."""
        return MEASURES[self.kind][name]

    def test(self, row: ComparedRun) -> str:
        """The name of the test that a run's p is of."""
        if row.run.over_seeds:
            return "a paired t-test over seeds"
        return paired.name_of_test(self.measure(self.measures[0]))


def tabulate(paths: Sequence[str], measures: Sequence[str] = (), *, resamples: int = RESAMPLES, seed: int = 0) -> Table:
    """The comparison of runs in workdirs by `measures`, of which the first is what differences are of; see `WRITERS`.

    Raises:
        UsageError: a folder that is no run, a measure that the runs do not have, runs that do not predict the same.
        TransferError: a damaged file, no validation row in common with the first run, or other labels of the same rows.
    """
    loaded = runs.load(paths)
    kind = runs.kind_of(loaded)
    for name in measures:
        if name not in MEASURES[kind]:
            raise UsageError(f"--measure={name}: these runs predict {kind}, which have {', '.join(MEASURES[kind])}")
    chosen = {name: MEASURES[kind][name] for name in measures or SHOWN[kind]}
    # of runs that are not over seeds, rows by id
    samples = {
        run.path: sample.rows(np.argsort(sample.ids))
        for run in loaded
        if not run.over_seeds and (sample := run.samples.get(None)) is not None
    }
    on_resamples = _on_resamples(samples, chosen, resamples, seed)
    compared = [ComparedRun(run, _values(run, samples, on_resamples, chosen)) for run in loaded]
    measure = next(iter(chosen))
    for other in compared[1:]:
        pairs = _pairs(loaded[0], other)
        if not pairs or not all(chosen[measure].applies(side) for pair in pairs for side in pair):
            continue
        if other.run.over_seeds:
            other.difference, other.p = _over_seeds([value(b, measure) - value(a, measure) for a, b in pairs])
            continue
        ((a, b),), first, path = pairs, loaded[0].path, other.run.path
        if measure in on_resamples[path] and len(a) == len(samples[first]) == len(samples[path]):
            drawn = on_resamples[path][measure] - on_resamples[first][measure]  # both are of the same resamples
        else:
            drawn = paired.paired_resamples(a, b, measure, resamples=resamples, seed=seed)
        other.difference, other.p = paired.of_resamples(a, b, measure, drawn), paired.chance(a, b, measure, drawn)
    tested = [other for other in compared if not math.isnan(other.p)]
    for other, p in zip(tested, paired.holm([other.p for other in tested]), strict=True):
        other.p_holm = p
    return Table(compared, kind, tuple(chosen), resamples)


def _on_resamples(
    samples: Mapping[str, Predictions], measures: Mapping[str, Measure], resamples: int, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """The measures of each run on resamples of its rows, which are drawn once for all runs of the same rows."""
    groups: dict[str, list[str]] = {}
    for path, sample in samples.items():
        groups.setdefault("\0".join(sample.ids.tolist()), []).append(path)
    values: dict[str, dict[str, np.ndarray]] = {path: {} for path in samples}
    for paths in groups.values():
        functions = {
            (path, name): measure.of(samples[path])
            for path in paths
            for name, measure in measures.items()
            if measure.applies(samples[path]) and measure.bootstrapped
        }
        drawn = resampled(functions, len(samples[paths[0]]), resamples=resamples, seed=seed)
        for (path, name), numbers in drawn.items():
            values[path][name] = numbers
    return values


def _values(
    run: Run,
    samples: Mapping[str, Predictions],
    on_resamples: Mapping[str, Mapping[str, np.ndarray]],
    measures: Mapping[str, Measure],
) -> dict[str, Value]:
    """The measures of a run, by what is known of it: predictions, or what `result.json` recorded."""
    if run.path in samples:
        sample, values = samples[run.path], {}
        for name, measure in measures.items():
            if measure.applies(sample):
                number = value(sample, name)
                values[name] = Value(number, *interval_of(measure, sample, number, on_resamples[run.path].get(name)))
        return values
    recorded = {name: ends for name, ends in run.recorded.items() if name in measures}
    if not run.over_seeds:
        return {name: Value(*ends[0]) for name, ends in recorded.items()}
    of_seeds = {name: [number for number, _, _ in ends] for name, ends in recorded.items()}
    if every := run.samples.values():
        applicable = (name for name, measure in measures.items() if all(map(measure.applies, every)))
        of_seeds = {name: [value(sample, name) for sample in every] for name in applicable}
    return {
        name: Value(statistics.fmean(numbers), spread=statistics.stdev(numbers) if len(numbers) > 1 else math.nan)
        for name, numbers in of_seeds.items()
    }


def _pairs(first: Run, other: ComparedRun) -> list[tuple[Predictions, Predictions]]:
    """The rows that a run shares with the first, once, or for each seed that both have; notes say what is lacking."""
    run, pairs = other.run, []
    if not (first.samples and run.samples):
        if run.samples:
            run.notes.append(f"no difference: {first.name}, which comes first, has no predictions")
    elif first.over_seeds != run.over_seeds:
        run.notes.append(f"no difference: one of it and {first.name} is over seeds, the other is not")
    else:
        try:
            common = [seed for seed in run.samples if seed in first.samples]
            pairs = [paired.aligned(first.samples[seed], run.samples[seed]) for seed in common]
        except TransferError as error:
            raise TransferError(f"{first.path} and {run.path} cannot be compared: {error}") from error
        other.shared = sum(len(a) for a, _ in pairs)
        if not pairs:
            run.notes.append(f"no difference: it has no seed in common with {first.name}")
        elif not run.over_seeds:
            if other.shared < max(len(first.samples[None]), len(run.samples[None])):
                run.notes.append(f"the difference is on the {other.shared} images that it shares with {first.name}")
            if set(pairs[0][0].ids.tolist()) <= set(map(str, range(other.shared))):  # as those of feature files are
                run.notes.append(f"its images have no ids, and are matched with those of {first.name} by their order")
    return pairs


def _over_seeds(differences: Sequence[float]) -> tuple[Difference, float]:
    """The mean of the differences seed by seed, its interval and p by Student's t over the seeds."""
    from scipy import stats

    mean, count = statistics.fmean(differences), len(differences)
    if count < 2:
        return Difference(mean, math.nan, math.nan), math.nan
    error = statistics.stdev(differences) / math.sqrt(count)
    half = float(stats.t.ppf(0.975, count - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, count - 1)) if error > 0 else float(mean == 0)
    return Difference(mean, mean - half, mean + half), p


def text(table: Table, width: int = WIDTH) -> str:
    """The table for a terminal: shared facts above, notes below; names as a list where lines would be too long."""
    of_fact = {key: {row.run.facts[key] for row in table.rows} for key in FACTS if len(table.rows) > 1}
    shared = {key: values.pop() for key, values in of_fact.items() if len(values) == 1 and values != {""}}
    above = ["all runs: " + ", ".join(f"{FACTS[key]} {value}" for key, value in shared.items())] if shared else []
    rows, left = _rows(table, shared)
    lines = tables.text(rows, left=left).splitlines()
    if max(map(len, lines)) > width:
        numbered = list(zip(["", *map(str, range(1, len(rows)))], rows, strict=True))
        above += [tables.text([[number, *row[:left]] for number, row in numbered]), ""]
        lines = [tables.text([[number, *row[left:]] for number, row in numbered], left=1)]
    notes = (
        textwrap.fill(note, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for note in _notes(table)
    )
    return "\n".join([*above, *lines, "", *notes]) + "\n"


def cells(table: Table) -> tuple[list[list[str]], int, list[str]]:
    """Rows of cells, the headings first; how many of the columns are names and facts; and the notes below."""
    return *_rows(table, {}), _notes(table)


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
        test = "" if math.isnan(row.p) else table.test(row)
        lines.append(
            [*facts, *map(full, numbers), row.shared or "", full(row.p), full(row.p_holm), test, "; ".join(run.notes)]
        )
    return tables.separated(lines)


# Suffix of a file -> what writes it.
WRITERS: Mapping[str, Callable[[Table], str]] = {".txt": text, ".md": markdown, ".csv": separated, ".tex": latex}


def _rows(table: Table, shared: Mapping[str, Any]) -> tuple[list[list[str]], int]:
    """Rows of cells, the headings first, and how many columns are names and facts; facts nobody has left out."""
    keys = [key for key in FACTS if key not in shared and any(row.run.facts[key] for row in table.rows)]
    measures = {name: table.measure(name) for name in table.measures}
    several, share = len(table.rows) > 1, measures[table.measures[0]].share
    headings = ["run", *(FACTS[key] for key in keys), *(m.title + " %" * m.share for m in measures.values())]
    rows = [headings + [f"difference{' %' * share}", "p"] * several]
    for row in table.rows:
        cells = [row.run.name, *(row.run.facts[key] or NONE for key in keys)]
        for name, measure in measures.items():
            v = row.values.get(name, Value(math.nan))
            if not math.isnan(v.spread):
                cell = f"{_number(v.value, measure.share)} ± {_number(v.spread, measure.share)}"
            else:  # the interval of every measure would make a line of 150 columns; a file for programs has them
                cell = _bracketed(v.value, v.low if name == table.measures[0] else math.nan, v.high, measure.share)
            cells.append(cell if name in row.values else NONE)
        if several:
            p = NONE if math.isnan(row.p_holm) else "<0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}"
            change = [_bracketed(*row.difference, share, "+"), p] if row.difference else [NONE, NONE]
            cells += ["", ""] if row is table.rows[0] else change
        rows.append(cells)
    return rows, len(keys) + 1


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
    lines, measure = [], table.measure(table.measures[0])
    if any(not math.isnan(v.low) for row in table.rows for v in row.values.values()):
        bootstrap = f"percentile bootstrap over validation images, {table.resamples} resamples"
        line = f"[ ]: {CONFIDENCE:.0%} intervals"
        if measure.shares is not None:
            of_each = "classes" if measure.by_class else "labels, or percentiles where they are wider"
            line = f"[ ]: {CONFIDENCE:.0%} score intervals of the mean over {of_each}"
        elif measure.biased:
            line += " of what the images do not refute, of a calibrated run 0 among it"
        else:
            line += f", {bootstrap}"
        if measure.hits is not None and not measure.by_class:
            line += f"; where fewer than {FEW} images decide, Wilson's"
            line += ", of differences Agresti and Min's" * (len(table.rows) > 1)
        lines.append(line)
    seeds = any(row.run.over_seeds for row in table.rows)
    if seeds:
        lines.append("±: mean over the seeds ± standard deviation of one run")
    tests = [row for row in table.rows if not math.isnan(row.p)]
    if tests or any(row.difference for row in table.rows):
        over_seeds = "; over seeds the mean with Student's t interval" * seeds
        first = table.rows[0].run.name
        lines.append(f"difference: {measure.title} minus that of {first}, on the same images{over_seeds}")
    if tests:
        correction = f", by Holm's correction for {len(tests)} comparisons" if len(tests) > 1 else ""
        lines.append(f"p: {' or '.join(sorted({table.test(row) for row in tests}))}, two-sided{correction}")
    by_note: dict[str, list[str]] = {}
    for row in table.rows:
        for note in row.run.notes:
            by_note.setdefault(note, []).append(row.run.name)
    return lines + [f"{', '.join(names)}: {note}" for note, names in by_note.items()]
