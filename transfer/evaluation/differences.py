"""Several runs in numbers: each with its intervals, and its difference to the first one on the rows that both have."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from transfer.errors import TransferError
from transfer.evaluation.intervals import RESAMPLES, interval_of, resampled
from transfer.evaluation.measures import MEASURES, applicable, value
from transfer.evaluation.paired import Difference, aligned, chance, holm, of_resamples, paired_resamples
from transfer.evaluation.predictions import Predictions
from transfer.evaluation.runs import Run

# What is shown of each kind where nothing else is asked for; by the first of them runs are compared.
SHOWN = {
    "classes": ("accuracy", "log_loss", "ece"),
    "labels": ("mean_average_precision", "log_loss"),
    "values": ("rmse", "r2"),
}


@dataclasses.dataclass
class Value:
    """A measure: of a single run with the ends of its interval, over seeds the mean with the spread of one run."""

    value: float
    low: float = math.nan
    high: float = math.nan
    spread: float = math.nan


@dataclasses.dataclass
class ComparedRun:
    """A run among others.

    Attributes:
        values: measure -> what it is; those that the run does not have are not there.
        difference: to the first run, of the first measure; None for the first itself, or where there is none.
        shared: rows that the difference is of.
        p: whether it may be chance, see `paired.chance`; over seeds that of a paired t-test; NaN where there is none.
        p_holm: p corrected for the number of comparisons.
    """

    run: Run
    values: dict[str, Value]
    difference: Difference | None = None
    shared: int = 0
    p: float = math.nan
    p_holm: float = math.nan


def compare(
    runs: Sequence[Run], kind: str, measures: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[ComparedRun]:
    """The runs beside each other, each with a difference to the first.

    Raises TransferError where a run has no validation row in common with the first, or other labels of the same rows.
    """
    # of runs that are not over seeds, rows by id
    samples = {
        run.path: sample.rows(np.argsort(sample.ids))
        for run in runs
        if not run.over_seeds and (sample := run.samples.get(None)) is not None
    }
    on_resamples = _on_resamples(samples, kind, measures, resamples, seed)
    compared = [ComparedRun(run, _values(run, samples, on_resamples, kind, measures)) for run in runs]
    first, measure = runs[0], measures[0]
    for other in compared[1:]:
        run = other.run
        if not (first.samples and run.samples):
            if run.samples:
                run.notes.append(f"no difference: {first.name}, which comes first, has no predictions")
        elif first.over_seeds != run.over_seeds:
            run.notes.append(f"no difference: one of it and {first.name} is over seeds, the other is not")
        else:
            try:
                if run.over_seeds:
                    _compare_seeds(first, other, kind, measure)
                    continue
                a, b = aligned(samples[first.path], samples[run.path])
            except TransferError as error:
                raise TransferError(f"{first.path} and {run.path} cannot be compared: {error}") from error
            rows = max(len(samples[first.path]), len(samples[run.path]))
            other.shared = len(a)
            if len(a) < rows:
                run.notes.append(f"the difference is on the {len(a)} images that it shares with {first.name}")
            if set(a.ids.tolist()) <= {str(number) for number in range(len(a))}:  # as those of feature files are
                run.notes.append(f"its images have no ids, and are matched with those of {first.name} by their order")
            if MEASURES[kind][measure].applies(a) and MEASURES[kind][measure].applies(b):
                if measure in on_resamples[run.path] and len(a) == rows:  # both are of the same resamples already
                    paired = on_resamples[run.path][measure] - on_resamples[first.path][measure]
                else:
                    paired = paired_resamples(a, b, measure, resamples=resamples, seed=seed)
                other.difference, other.p = of_resamples(a, b, measure, paired), chance(a, b, measure, paired)
    tested = [other for other in compared if not math.isnan(other.p)]
    for other, p in zip(tested, holm([other.p for other in tested]), strict=True):
        other.p_holm = p
    return compared


def _on_resamples(
    samples: Mapping[str, Predictions], kind: str, measures: Sequence[str], resamples: int, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """The measures of each run on resamples of its rows, which are drawn once for all runs of the same rows."""
    groups: dict[str, list[str]] = {}
    for path, sample in samples.items():
        groups.setdefault("\0".join(sample.ids.tolist()), []).append(path)
    values: dict[str, dict[str, np.ndarray]] = {path: {} for path in samples}
    for paths in groups.values():
        functions = {
            f"{place} {name}": MEASURES[kind][name].of(samples[path])
            for place, path in enumerate(paths)
            for name in applicable(samples[path])
            if name in measures and not MEASURES[kind][name].by_class
        }
        drawn = resampled(functions, len(samples[paths[0]]), resamples=resamples, seed=seed)
        for key, numbers in drawn.items():
            place, name = key.split(" ")
            values[paths[int(place)]][name] = numbers
    return values


def _values(
    run: Run,
    samples: Mapping[str, Predictions],
    on_resamples: Mapping[str, Mapping[str, np.ndarray]],
    kind: str,
    measures: Sequence[str],
) -> dict[str, Value]:
    """The measures of a run, by what is known of it: predictions, or what `result.json` recorded."""
    known = [MEASURES[kind][name] for name in measures]
    if run.over_seeds:
        of_seeds = {name: [number for number, _, _ in ends] for name, ends in run.recorded.items() if name in measures}
        if run.samples:
            every = run.samples.values()
            of_seeds = {
                name: [value(sample, name) for sample in every]
                for name, measure in zip(measures, known, strict=True)
                if all(map(measure.applies, every))
            }
        return {
            name: Value(statistics.fmean(numbers), spread=statistics.stdev(numbers) if len(numbers) > 1 else math.nan)
            for name, numbers in of_seeds.items()
            if numbers
        }
    if run.path not in samples:
        return {name: Value(*ends[0]) for name, ends in run.recorded.items() if name in measures}
    sample, values = samples[run.path], {}
    for name, measure in zip(measures, known, strict=True):
        if measure.applies(sample):
            number = value(sample, name)
            values[name] = Value(number, *interval_of(measure, sample, number, on_resamples[run.path].get(name)))
    return values


def _compare_seeds(first: Run, other: ComparedRun, kind: str, measure: str) -> None:
    """The mean of the differences seed by seed, its interval and p by Student's t over the seeds."""
    from scipy import stats

    run = other.run
    seeds = [seed for seed in run.samples if seed in first.samples]
    if not seeds:
        run.notes.append(f"no difference: it has no seed in common with {first.name}")
        return
    pairs = [aligned(first.samples[seed], run.samples[seed]) for seed in seeds]
    other.shared = sum(len(a) for a, _ in pairs)
    if not all(MEASURES[kind][measure].applies(side) for pair in pairs for side in pair):
        return
    differences = [value(b, measure) - value(a, measure) for a, b in pairs]
    mean = statistics.fmean(differences)
    other.difference = Difference(mean, math.nan, math.nan)
    if len(differences) > 1:
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        half = float(stats.t.ppf(0.975, len(differences) - 1)) * error
        other.difference = Difference(mean, mean - half, mean + half)
        other.p = float(2 * stats.t.sf(abs(mean) / error, len(differences) - 1)) if error > 0 else float(mean == 0)
