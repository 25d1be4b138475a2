"""Settings of a head chosen on rows that are held out of the training rows: never on those that validate.

selection = transfer.sweep({"block4:avg": a, "pre_logits": b}, y, "logistic", {"C": 10.0 ** np.linspace(-6, 5, 45)})
selection.chosen, selection.table, selection.probe.score(test, test_labels)
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from numpy.typing import ArrayLike

from transfer.errors import RowsError, UsageError
from transfer.evaluation import measures
from transfer.evaluation.predictions import Predictions, Scores
from transfer.heads import HEADS, targets
from transfer.runtime.progress import NOTICEABLE_SECONDS, Progress, waiting

Grid = Mapping[str, Sequence[Any]]
Row = dict[str, Any]
# What is predicted -> measures (`transfer.evaluation.measures`) that settings may be chosen by, the usual one first.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "classes": ("accuracy", "balanced_accuracy", "log_loss"),
    "labels": ("mean_average_precision", "accuracy", "log_loss"),
    "values": ("rmse", "r2"),
}
MORE_IS_BETTER = {name: one.more for of_kind in measures.MEASURES.values() for name, one in of_kind.items()}


class Best(NamedTuple):
    """The best setting of one tap.

    Attributes:
        settings: what of the grid it is.
        measures: on the held-out rows.
        scores: of the held-out rows, float32 (M, C).
        probable: whether they make probabilities.
    """

    settings: dict[str, Any]
    measures: dict[str, float]
    scores: np.ndarray
    probable: bool


@dataclasses.dataclass(frozen=True)
class Selection:
    """The outcome of a sweep.

    Attributes:
        chosen: the setting, and `tap` where there are several.
        table: a row for each setting that was tried: the setting and its measures on the held-out rows.
        probe: the head with that setting, fitted on all of the training rows.
        holdout_scores, holdout_labels: float32 (M, C) by the head that was fitted without them, and the labels as they
            were given, (M,) or (M, L); for temperature scaling.
        measure: what was highest.
        best: tap -> the best setting of each.
        num_fitted: rows that the candidates were fitted on.
        notes: what a reader should know, a line each.
    """

    chosen: dict[str, Any]
    table: list[Row]
    probe: Any
    holdout_scores: np.ndarray
    holdout_labels: np.ndarray
    measure: str
    best: dict[str, Best]
    num_fitted: int
    notes: tuple[str, ...]


def sweep(
    features: Mapping[str, ArrayLike] | ArrayLike,
    y: ArrayLike,
    head: Any,
    grid: Grid | None = None,
    *,
    holdout: float = 0.1,
    seed: int = 0,
    measure: str | None = None,
) -> Selection:
    """Tries every combination of `grid` on held-out rows, and fits the best one on all rows.

    The held-out rows are drawn by `seed` class by class, so that each class keeps at least one row to fit on; a class
    of one row is not held out. (Rows of labels and of values are drawn from all.) Of equals the first in the order of
    the grid is chosen, so that values should begin with the strongest regularisation.

    Args:
        features: (N, ...) numbers, or several taps of the same rows by name, which are one more thing to choose.
        y: (N,) classes; (N, L) of 0 and 1, labels; for a regressor (N,) or (N, T) values.
        head: a name of `transfer.heads.HEADS`, or a scikit-learn estimator.
        grid: parameter -> values to try; None: the head's own `GRID`; empty: nothing but the tap is chosen. Those of
            the head's `SIDE_BY_SIDE` are fitted in one program.
        holdout: the share of the rows that is held out.
        measure: one of `CHOICES` of what is predicted; None: the first.

    Raises:
        UsageError: an unknown head, parameter or measure, a parameter without values, a share that is none.
        RowsError: (a ValueError) rows that no head can use, or too few to hold any out.
    """
    named = dict(features) if isinstance(features, Mapping) else {"": features}
    if not isinstance(head, str) and not (hasattr(head, "fit") and hasattr(head, "set_params")):
        raise UsageError(f"a sweep takes the name of a head or an estimator, not a {type(head).__name__}")
    estimator = HEADS[head]() if isinstance(head, str) else head
    selection = select(named, y, estimator, grid, holdout=holdout, seed=seed, measure=measure)
    for note in selection.notes:
        logging.warning("%s", note)
    if not isinstance(features, Mapping):
        del selection.chosen["tap"]
        for row in selection.table:
            del row["tap"]
    return selection


def select(
    features: Mapping[str, ArrayLike],
    y: ArrayLike,
    estimator: Any,
    grid: Grid | None,
    *,
    holdout: float,
    seed: int,
    measure: str | None,
) -> Selection:
    """`sweep` for taps by name and an estimator; what is worth a warning is among its notes."""
    from sklearn.base import is_regressor

    if not features:
        raise UsageError("a sweep needs the features of at least one tap")
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    settings = _combinations(getattr(estimator, "GRID", {}) if grid is None else grid, estimator)
    kind = "values" if is_regressor(estimator) else "labels" if labels.ndim == 2 else "classes"
    if measure is not None and measure not in CHOICES[kind]:
        raise UsageError(f"measure={measure!r} is not one of {', '.join(CHOICES[kind])}, by which {kind} are chosen")
    measure = measure or CHOICES[kind][0]
    kept, held = split(labels, kind, holdout, seed)
    if kind == "values":
        right, classes = targets.of_regressor(labels, len(labels)), None
    else:
        right, classes = targets.of_classifier(labels, len(labels))
    table: list[Row] = []
    best: dict[str, Best] = {}
    for tap, of_tap in features.items():
        x = _rows(of_tap, len(labels))
        candidates = _candidates(estimator, settings, x[kept], labels[kept], x[held], classes, kind)
        for setting, scores in zip(settings, candidates, strict=True):
            row = measured(scores, right.array[held], kind)
            if measure not in row:
                name = type(estimator).__name__
                lacking = "no held-out row has a label" if scores.probable else f"{name} gives no probabilities"
                raise UsageError(f"measure={measure}: the held-out rows have none, {lacking}")
            table.append({"tap": tap, **setting, **row})
            if tap not in best or _rank(row, measure) > _rank(best[tap].measures, measure):
                best[tap] = Best(setting, row, scores.values, scores.probable)
    winner = max(best, key=lambda tap: _rank(best[tap].measures, measure))  # the first of equals
    chosen = best[winner].settings
    return Selection(
        chosen={"tap": winner, **chosen},
        table=table,
        probe=fit_setting(estimator, chosen, _rows(features[winner], len(labels)), labels),
        holdout_scores=best[winner].scores,
        holdout_labels=labels[held],
        measure=measure,
        best=best,
        num_fitted=len(kept),
        notes=tuple(_notes(chosen, settings, table, measure)),
    )


def fit_setting(estimator: Any, settings: Mapping[str, Any], features: np.ndarray, labels: np.ndarray) -> Any:
    """A fresh estimator with `settings`, fitted on all of the rows; what the caller gave stays as it was."""
    from sklearn.base import clone

    with waiting(f"fitting {type(estimator).__name__} on {len(labels)} rows"):
        return clone(estimator).set_params(**settings).fit(features, labels)


def _rows(features: ArrayLike, num_rows: int) -> np.ndarray:
    array = np.asarray(features)
    if array.shape[:1] != (num_rows,):
        raise RowsError(f"features of shape {array.shape} but {num_rows} labels: the two must be of one length")
    return array.reshape(num_rows, math.prod(array.shape[1:]))


def _combinations(grid: Grid, estimator: Any) -> list[dict[str, Any]]:
    """Every combination of the grid's values, the last parameter changing fastest; one empty for an empty grid."""
    if not hasattr(estimator, "get_params"):
        raise UsageError(f"settings of a {type(estimator).__name__} cannot be chosen: it has no get_params")
    known = estimator.get_params()
    for name, values in grid.items():
        if name not in known:
            raise UsageError(f"{type(estimator).__name__} takes no {name}; it takes {', '.join(known)}")
        if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray) or len(values) == 0:
            raise UsageError(f"{name}={values!r} should be several values to try")
    # a NumPy number as Python's: it is written down as JSON
    columns = [[value.item() if isinstance(value, np.generic) else value for value in of] for of in grid.values()]
    return [dict(zip(grid, combination, strict=True)) for combination in itertools.product(*columns)]


def split(labels: np.ndarray, kind: str, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit on and rows that are held out, each int (n,), ascending.

    Classes share the held-out rows by their sizes, rounded so that all together are `fraction` of N, but at least one;
    each keeps one. Raises UsageError for a fraction outside of (0, 1), RowsError where nothing can be held out.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"holdout={fraction} must lie between 0 and 1")
    random = np.random.default_rng(seed)
    wanted = max(1, round(fraction * len(labels)))
    groups = [np.arange(len(labels))]
    if kind == "classes":
        groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    sizes = np.array([len(group) for group in groups], np.int64)
    most, exact = np.maximum(sizes - 1, 0), sizes * wanted / max(sizes.sum(), 1)
    counts = np.minimum(np.floor(exact).astype(np.int64), most)
    order = np.lexsort((random.random(len(sizes)), -(exact - counts)))  # the largest remainder first, equal ones by lot
    while counts.sum() < min(wanted, most.sum()):
        open_ = [place for place in order if counts[place] < most[place]]
        counts[open_[: wanted - counts.sum()]] += 1
    if not counts.sum():
        raise RowsError(f"{len(labels)} rows, of no class two: none can be held out to choose by")
    drawn = [random.permutation(group)[:count] for group, count in zip(groups, counts, strict=True)]
    held = np.sort(np.concatenate(drawn))
    return np.delete(np.arange(len(labels)), held), held


def _candidates(
    estimator: Any, settings: list[Row], x: np.ndarray, y: np.ndarray, held: np.ndarray, classes: Any, kind: str
) -> Iterator[Scores]:
    """Scores of the held-out rows by each setting, fitted on the others; with progress where it takes a while."""
    if hasattr(estimator, "fit_many") and settings[0]:
        columns = {name: [setting[name] for setting in settings] for name in settings[0]}
        with waiting(f"fitting {len(settings)} settings side by side"):
            yield from map(Scores, estimator.fit_many(x, y, columns)(held))
        return
    with Progress("sweep", len(settings), "settings", delay=NOTICEABLE_SECONDS) as progress:
        for setting in settings:
            scores = Scores.of(fit_setting(estimator, setting, x, y), held, classes, kind)
            progress.update()
            yield scores


def _notes(chosen: Mapping[str, Any], settings: list[dict[str, Any]], table: list[Row], measure: str) -> Iterator[str]:
    """Notes on the choice: values at the edge of what was tried, settings between which it was not made."""

    def is_number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    best = max(_rank(row, measure) for row in table)
    equal = [row for row in table if _rank(row, measure) == best]
    for name, value in chosen.items():
        tried = sorted({setting[name] for setting in settings if is_number(setting[name])})
        inside = any(is_number(row[name]) and tried[0] < row[name] < tried[-1] for row in equal)
        # 0 is an end of its own; and where a value further inside is as good, there is nothing to be had beyond
        if len(tried) > 2 and value in (tried[0], tried[-1]) and value != 0 and not inside:
            yield (
                f"the chosen {name}={value:g} is at the edge of what was tried, {tried[0]:g} to {tried[-1]:g}: "
                "there may be better beyond"
            )
    if len(equal) > 1 and measure == "accuracy" and "log_loss" in table[0]:
        yield f"{len(equal)} settings are equal by accuracy, the first is taken; measure=log_loss tells them apart"


def measured(scores: Scores, truth: np.ndarray, kind: str) -> dict[str, float]:
    """The measures of `CHOICES` that scores have of a `Targets.array`; NaN, each of them, where a head has diverged."""
    if np.isnan(scores.values).any():
        return dict.fromkeys(CHOICES[kind], math.nan)
    predictions = Predictions.of_logits(scores.values, truth, kind=kind, ranked=scores.ranked, probable=scores.probable)
    known = measures.applicable(predictions)
    return {name: measures.value(predictions, name) for name in CHOICES[kind] if name in known}


def _rank(row: Row, measure: str) -> float:
    """The higher the better; what is not a number is worst."""
    value = row[measure]
    return -math.inf if math.isnan(value) else value if MORE_IS_BETTER[measure] else -value
