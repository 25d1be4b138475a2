"""Several runs in numbers: each with its intervals, and its difference to the first one on the rows that both have."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

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
class Compared:
    """A run among others.

    Attributes:
        values: measure -> what it is; those that the run does not have are not there.
        difference: to the first run, of the first measure; None for the first itself, or where it cannot be said.
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
) -> list[Compared]:
    """The runs beside each other, each with a difference to the first.

    Raises TransferError where a run has no validation row in common with the first, or other labels of the same rows.
    """
    known, spreads = _of_single_runs(runs, kind, measures, resamples, seed)
    found = [
        Compared(run, _over_seeds(run, kind, measures) if run.over_seeds else _of_one(run, spreads, known, measures))
        for run in runs
    ]
    for one in found[1:]:
        _compare(found[0].run, one, kind, measures[0], known, spreads, resamples, seed)
    tested = [one for one in found if not math.isnan(one.p)]
    for one, p in zip(tested, holm([one.p for one in tested]), strict=True):
        one.p_holm = p
    return found


def _of_single_runs(
    runs: Sequence[Run], kind: str, measures: Sequence[str], resamples: int, seed: int
) -> tuple[dict[str, Predictions], dict[str, dict[str, np.ndarray]]]:
    """By path: the predictions of runs that are not over seeds, rows by id, and their measures on resamples.

    Runs of the same rows are measured on the same resamples, which are drawn once.
    """
    known = {
        run.path: only.rows(np.argsort(only.ids))
        for run in runs
        if not run.over_seeds and (only := run.samples.get(None)) is not None
    }
    groups: dict[str, list[str]] = {}
    for path, one in known.items():
        groups.setdefault("\0".join(one.ids.tolist()), []).append(path)
    spreads: dict[str, dict[str, np.ndarray]] = {path: {} for path in known}
    for paths in groups.values():
        functions = {
            f"{place} {name}": MEASURES[kind][name].of(known[path])
            for place, path in enumerate(paths)
            for name in applicable(known[path])
            if name in measures and not MEASURES[kind][name].by_class
        }
        drawn = resampled(functions, len(known[paths[0]]), resamples=resamples, seed=seed)
        for key, values in drawn.items():
            place, name = key.split(" ")
            spreads[paths[int(place)]][name] = values
    return known, spreads


def _of_one(
    run: Run, spreads: dict[str, dict[str, np.ndarray]], known: dict[str, Predictions], measures: Sequence[str]
) -> dict[str, Value]:
    if run.path not in known:
        return {name: Value(*found[0]) for name, found in run.recorded.items() if name in measures}
    one, values = known[run.path], {}
    for name in measures:
        if (measure := MEASURES[one.kind][name]).applies(one):
            number = value(one, name)
            values[name] = Value(number, *interval_of(measure, one, number, spreads[run.path].get(name)))
    return values


def _over_seeds(run: Run, kind: str, measures: Sequence[str]) -> dict[str, Value]:
    of_seed = {name: [one for one, _, _ in found] for name, found in run.recorded.items()}
    if run.samples:
        of_seed = {
            name: [value(one, name) for one in run.samples.values()]
            for name in measures
            if all(MEASURES[kind][name].applies(one) for one in run.samples.values())
        }
    return {
        name: Value(statistics.fmean(found), spread=statistics.stdev(found) if len(found) > 1 else math.nan)
        for name, found in of_seed.items()
        if name in measures and found
    }


def _compare(
    first: Run,
    one: Compared,
    kind: str,
    measure: str,
    known: dict[str, Predictions],
    spreads: dict[str, dict[str, np.ndarray]],
    resamples: int,
    seed: int,
) -> None:
    """Fills in the difference to the first run, where there is one to be had."""
    run = one.run
    if not (first.samples and run.samples):
        if run.samples:
            run.notes.append(f"no difference: {first.name}, which comes first, has no predictions")
        return
    if first.over_seeds != run.over_seeds:
        run.notes.append(f"no difference: one of it and {first.name} is over seeds, the other is not")
        return
    try:
        if run.over_seeds:
            _compare_seeds(first, one, kind, measure)
            return
        a, b = aligned(known[first.path], known[run.path])
    except TransferError as error:
        raise TransferError(f"{first.path} and {run.path} cannot be compared: {error}") from error
    one.shared = len(a)
    if len(a) < max(len(known[first.path]), len(known[run.path])):
        run.notes.append(f"the difference is on the {len(a)} images that it shares with {first.name}")
    if _numbered(a):
        run.notes.append(f"its images have no ids, and are matched with those of {first.name} by their order")
    if not (MEASURES[kind][measure].applies(a) and MEASURES[kind][measure].applies(b)):
        return
    if measure in spreads[run.path] and len(a) == len(known[first.path]) == len(known[run.path]):
        paired = spreads[run.path][measure] - spreads[first.path][measure]  # both are of the same resamples already
    else:
        paired = paired_resamples(a, b, measure, resamples=resamples, seed=seed)
    one.difference, one.p = of_resamples(a, b, measure, paired), chance(a, b, measure, paired)


def _numbered(found: Predictions) -> bool:
    """Whether ids are but the numbers of the rows, as those of feature files are."""
    return set(found.ids.tolist()) <= {str(number) for number in range(len(found))}


def _compare_seeds(first: Run, one: Compared, kind: str, measure: str) -> None:
    """The mean of the differences seed by seed, its interval and p by Student's t over the seeds."""
    from scipy import stats

    run = one.run
    seeds = [seed for seed in run.samples if seed in first.samples]
    if not seeds:
        run.notes.append(f"no difference: it has no seed in common with {first.name}")
        return
    pairs = [aligned(first.samples[seed], run.samples[seed]) for seed in seeds]
    one.shared = sum(len(a) for a, _ in pairs)
    if not all(MEASURES[kind][measure].applies(side) for pair in pairs for side in pair):
        return
    found = [value(b, measure) - value(a, measure) for a, b in pairs]
    mean = statistics.fmean(found)
    if len(found) == 1:
        one.difference = Difference(mean, math.nan, math.nan)
        return
    error = statistics.stdev(found) / math.sqrt(len(found))
    half = float(stats.t.ppf(0.975, len(found) - 1)) * error
    one.difference = Difference(mean, mean - half, mean + half)
    one.p = float(2 * stats.t.sf(abs(mean) / error, len(found) - 1)) if error > 0 else (1.0 if mean == 0 else 0.0)
