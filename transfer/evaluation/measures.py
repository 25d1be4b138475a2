"""How good predictions are, each measure as a function of how often every row counts.

A bootstrap resample is nothing but other counts, so that one function gives a measure's value, and its value on
thousands of resamples at a time.
"""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from transfer.evaluation.calibration import BINS, bins_of
from transfer.evaluation.predictions import MOST, Predictions

# Counts float64 (R, N), how often each of N rows counts in each of R resamples -> the measure, float64 (R,); NaN where
# a resample leaves it open.
Weighted = Callable[[np.ndarray], np.ndarray]


class Measure(NamedTuple):
    """A measure of predictions.

    Attributes:
        of: predictions -> their measure as a function of counts.
        title: what a table calls it.
        more: whether more is better.
        share: whether it lies between 0 and 1, and is shown in per cent.
        hits: predictions -> bool (N,), the rows whose share it is; None where it is none.
        by_class: whether it is the mean of that share over classes.
        shares: predictions -> (right, rows), float64 (C,) each, of a mean over right / rows; None where it is none.
        biased: whether a sample of the rows shows more of it than there is, and a resample more again.
        applies: whether it is defined for predictions of its kind.
    """

    of: Callable[[Predictions], Weighted]
    title: str
    more: bool
    share: bool = True
    hits: Callable[[Predictions], np.ndarray] | None = None
    by_class: bool = False
    shares: Callable[[Predictions], tuple[np.ndarray, np.ndarray]] | None = None
    biased: bool = False
    applies: Callable[[Predictions], bool] = lambda predictions: True

    @property
    def bootstrapped(self) -> bool:
        """Whether its interval is of resamples; a mean over classes and a calibration error have others."""
        return not self.by_class and not self.biased


def _mean(values: np.ndarray) -> Weighted:
    column = values.astype(np.float64)
    return lambda counts: counts @ column / counts.sum(axis=1)


def counts_by_class(labels: np.ndarray, *masks: np.ndarray) -> list[np.ndarray]:
    """The rows of each class that has any, and those of them in each mask (N,): float64 (C,) each."""
    _, classes = np.unique(labels, return_inverse=True)
    return [np.bincount(classes, weights) for weights in (np.ones(len(classes)), *masks)]


def _recalls(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    rows, right = counts_by_class(predictions.labels, predictions.right)
    return right, rows


def _balanced_accuracy(predictions: Predictions) -> Weighted:
    _, classes = np.unique(predictions.labels, return_inverse=True)
    groups = 2 * classes + predictions.right

    def weighted(counts: np.ndarray) -> np.ndarray:
        sums = np.stack([np.bincount(groups, row, minlength=2 * (classes.max() + 1)) for row in counts])
        wrong, right = np.moveaxis(sums.reshape(len(counts), -1, 2), 2, 0)
        total = wrong + right
        recall = np.divide(right, total, out=np.zeros_like(right), where=total > 0)
        return recall.sum(axis=1) / (total > 0).sum(axis=1)

    return weighted


def _ece(predictions: Predictions) -> Weighted:
    confidence = predictions.probability[:, 0]
    gaps = np.zeros((len(confidence), BINS))  # a product of matrices is faster than sums of groups, of so few
    gaps[np.arange(len(gaps)), bins_of(confidence)] = confidence.astype(np.float64) - predictions.right
    return lambda counts: np.abs(counts @ gaps).sum(axis=1) / counts.sum(axis=1)


def _mean_average_precision(predictions: Predictions) -> Weighted:
    """The mean over labels that any row has; in a resample, over those that any of its rows has."""
    of_label = _average_precisions(predictions)

    def weighted(counts: np.ndarray) -> np.ndarray:
        by_row = np.ascontiguousarray(counts.T)
        precisions = np.stack([function(by_row) for function in of_label])
        is_defined = ~np.isnan(precisions)
        with np.errstate(invalid="ignore"):
            return np.where(is_defined, precisions, 0).sum(axis=0) / is_defined.sum(axis=0)

    return weighted


def _average_precisions(predictions: Predictions) -> list[Weighted]:
    """Those of the labels that any row has."""
    columns = zip(predictions.scores.T, predictions.labels.T, strict=True)
    return [_average_precision(scores, labels > 0) for scores, labels in columns if labels.any()]


def _precisions(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """An average precision is a mean over the rows that have the label, and as uncertain as so few rows are."""
    rows, ones = predictions.labels.sum(axis=0, dtype=np.float64), np.ones((len(predictions), 1))
    values = [float(of_label(ones)[0]) for of_label in _average_precisions(predictions)]
    return values * rows[rows > 0], rows[rows > 0]


def _average_precision(scores: np.ndarray, positive: np.ndarray) -> Weighted:
    """The average precision of one label; takes counts as (N, R), on which products with sparse matrices are fast."""
    from scipy import sparse

    order = np.argsort(-scores, kind="stable")
    # rows of one score are one step of the ranking, and only steps with a positive row count
    _, step = np.unique(-scores[order], return_inverse=True)
    last = np.searchsorted(step, np.unique(step[positive[order]]), side="right")
    ends = np.concatenate([[0], last])
    positive_ends = np.concatenate([[0], np.cumsum(positive[order])])[ends]

    def rows_of_steps(rows: np.ndarray, ends: np.ndarray) -> sparse.csr_matrix:
        return sparse.csr_matrix((np.ones(len(rows)), rows, ends), (len(last), len(scores)))

    all_rows = rows_of_steps(order[: ends[-1]], ends)
    positive_rows = rows_of_steps(order[positive[order]], positive_ends)

    def weighted(counts: np.ndarray) -> np.ndarray:
        seen, hits = np.cumsum(all_rows @ counts, axis=0), positive_rows @ counts
        precision = np.divide(np.cumsum(hits, axis=0), seen, out=np.zeros_like(seen), where=seen > 0)
        with np.errstate(invalid="ignore"):
            return (hits * precision).sum(axis=0) / hits.sum(axis=0)

    return weighted


def _labels_log_loss(predictions: Predictions) -> Weighted:
    scores = np.clip(predictions.scores.astype(np.float64), -87, 87)  # as the loss of classes is bounded
    return _mean((np.logaddexp(0, scores) - predictions.labels * scores).mean(axis=1))


def _rmse(predictions: Predictions) -> Weighted:
    squares = (predictions.scores.astype(np.float64) - predictions.labels) ** 2
    return lambda counts: np.sqrt(counts @ squares / counts.sum(axis=1, keepdims=True)).mean(axis=1)


def _r2(predictions: Predictions) -> Weighted:
    labels = predictions.labels.astype(np.float64)
    squares = (predictions.scores - labels) ** 2
    labels = labels - labels.mean(axis=0)  # so that the difference below loses no digits

    def weighted(counts: np.ndarray) -> np.ndarray:
        total = counts.sum(axis=1, keepdims=True)
        spread = counts @ labels**2 - (counts @ labels) ** 2 / total
        error = counts @ squares
        varies = spread > 1e-12 * np.maximum(counts @ labels**2, np.finfo(np.float64).tiny)
        # targets that do not vary: 1 where they are met, else 0, as scikit-learn has it
        alike = np.where(error > 0, 0.0, 1.0)
        return (1 - np.divide(error, spread, out=1 - alike, where=varies)).mean(axis=1)

    return weighted


def _share(title: str, hits: Callable[[Predictions], np.ndarray], **others: Any) -> Measure:
    """The share of the rows that are hits."""
    return Measure(lambda p: _mean(hits(p)), title, more=True, hits=hits, **others)


# The rows whose class is among the five in any order of equal scores; without a vote of neighbours it is not.
_TOP_5 = _share("top-5", lambda p: p.rivals < MOST, applies=lambda p: p.ranked and p.num_outputs > MOST)
_RIGHT, _PROBABLE = attrgetter("right"), attrgetter("probable")

# What is predicted -> measures, the first of them that runs are compared by.
MEASURES: Mapping[str, Mapping[str, Measure]] = {
    "classes": {
        "accuracy": _share("accuracy", _RIGHT),
        "top_5_accuracy": _TOP_5,
        "balanced_accuracy": Measure(
            _balanced_accuracy, "balanced", more=True, hits=_RIGHT, by_class=True, shares=_recalls
        ),
        "log_loss": Measure(lambda p: _mean(p.nll), "log-loss", more=False, share=False, applies=_PROBABLE),
        "ece": Measure(_ece, "ECE", more=False, biased=True, applies=_PROBABLE),
    },
    "labels": {
        "mean_average_precision": Measure(
            _mean_average_precision,
            "mAP",
            more=True,
            shares=_precisions,
            applies=lambda p: p.ranked and bool(p.labels.any()),
        ),
        "accuracy": _share("all right", _RIGHT),
        "log_loss": Measure(_labels_log_loss, "log-loss", more=False, share=False, applies=_PROBABLE),
    },
    "values": {
        "rmse": Measure(_rmse, "RMSE", more=False, share=False),
        "r2": Measure(_r2, "R2", more=True, share=False),
    },
}


def applicable(predictions: Predictions) -> dict[str, Measure]:
    """The measures that predictions have: those of probabilities only where there are any."""
    return {name: measure for name, measure in MEASURES[predictions.kind].items() if measure.applies(predictions)}


def value(predictions: Predictions, name: str) -> float:
    """The value of one measure on all rows."""
    return float(MEASURES[predictions.kind][name].of(predictions)(np.ones((1, len(predictions))))[0])
