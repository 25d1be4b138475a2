"""Whether probabilities can be believed: expected calibration error, reliability by bin, temperature scaling."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from transfer.errors import RowsError

BINS = 15
# The largest multiple of what bins are off by that an interval looks at, and how often it halves it.
FARTHEST, HALVINGS = 8.0, 10
# Between these lies the temperature: beyond, probabilities are all alike, or none but one is more than nothing.
COLDEST, HOTTEST = 0.01, 100.0


class Reliability(NamedTuple):
    """Rows by the confidence of their prediction."""

    rows: np.ndarray  # int64 (B,), how many fall into each bin
    confidence: np.ndarray  # float64 (B,), the mean of each; NaN where no row is
    accuracy: np.ndarray  # the same


def bins_of(confidence: ArrayLike, bins: int = BINS) -> np.ndarray:
    """The bin of each confidence (N,), int64: B equally wide ones over [0, 1], each without its lower end.

    As Guo et al.'s code has them (gpleiss/temperature_scaling); a confidence of 0 falls into the first.
    """
    # the edges in the type of the confidences, which a rounded one may lie on
    values = np.asarray(confidence)
    edges = np.linspace(0, 1, bins + 1).astype(values.dtype if values.dtype.kind == "f" else np.float64)
    return np.clip(np.searchsorted(edges, values, side="left") - 1, 0, bins - 1)


def reliability(confidence: ArrayLike, right: ArrayLike, bins: int = BINS) -> Reliability:
    """The points of a reliability diagram, of confidences (N,) and whether each prediction is right, bool (N,)."""
    of_row = bins_of(confidence, bins)
    rows = np.bincount(of_row, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(of_row, np.asarray(x, np.float64), minlength=bins) / rows for x in (confidence, right)]
    return Reliability(rows, *means)


def expected_calibration_error(confidence: ArrayLike, right: ArrayLike, bins: int = BINS) -> float:
    """The mean over rows of `|confidence - accuracy|` of their bin (Naeini et al. 2015; Guo et al. 2017, 15 bins).

    Equals `netcal.metrics.ECE` and `torchmetrics.classification.MulticlassCalibrationError` (norm "l1").
    """
    rows, mean_confidence, accuracy = reliability(confidence, right, bins)
    gaps = np.abs(mean_confidence - accuracy)[rows > 0]
    return float(gaps @ rows[rows > 0] / rows.sum())


def error_interval(
    confidence: ArrayLike, right: ArrayLike, level: float = 0.95, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The errors of a population (`expected_calibration_error`) that rows do not refute: a test, inverted.

    Rows are drawn from bins that are off by a multiple of what these are, half by their own gap and half by the mean of
    all. An error is refuted where all but (1 - level) / 2 of the draws show more than these rows do, or less. So 0 is
    held by a run as calibrated as it can be: a sample of it shows some error, and a resample, of a bootstrap, more. At
    the high end bins may also be off to the side where there is more room: twelve rows that are all right, and said to
    be so by 0.93, are no proof against an accuracy of 0.7. Of few rows the interval is wide, and holds as often.
    """
    rows, sure, accuracy = reliability(confidence, right)
    known = rows > 0
    rows, sure, gap = rows[known], sure[known], (sure - accuracy)[known]
    count, share = rows.sum(), rows / rows.sum()
    shown = float(share @ np.abs(gap))
    # of a sample without any error, too, something is to grow
    size = (np.abs(gap) + max(shown, 1 / count)) / 2
    as_these, to_the_wider_side = (np.where(below, size, -size) for below in (gap >= 0, sure >= 0.5))

    def end(step: np.ndarray, tail: float, is_enough: Callable[[Any, Any], Any]) -> float:
        """The smallest error whose draws show enough: their quantile `tail`, beside what the rows show."""
        low, middle, high = 0.0, 0.0, FARTHEST
        for _ in range(1 + HALVINGS):
            random = np.random.default_rng(seed)
            drawn = random.multinomial(count, share, draws)
            drawn_right = random.binomial(drawn, np.clip(sure - middle * step, 0, 1))
            shown_by_draws = np.abs(drawn * sure - drawn_right).sum(axis=1) / count
            enough = is_enough(np.quantile(shown_by_draws, tail), shown)
            low, high = (low, middle) if enough else (middle, high)
            middle = (low + high) / 2
        return float(share @ np.abs(sure - np.clip(sure - low * step, 0, 1)))

    highest = (end(step, (1 - level) / 2, operator.gt) for step in (as_these, to_the_wider_side))
    return min(shown, end(as_these, (1 + level) / 2, operator.ge)), max(shown, *highest)


def temperature(logits: ArrayLike, labels: ArrayLike, kind: str = "classes") -> float:
    """The temperature T at which logits / T have the lowest log-loss (Guo et al. 2017), of rows not trained on.

    The loss is convex in 1 / T, so that a bracketed search finds its one minimum, to 1e-6 of it or better.

    Args:
        logits: (N, C); -inf for classes that the head does not know.
        labels: (N,) indices of classes, or for kind "labels" (N, L) of 0 and 1.

    T is between 0.01 and 100; 1.0 where no row is wrong, or all are said to be impossible: the loss then has no
    minimum, and rows say nothing of how sure to be. Raises RowsError for NaN, or other labels.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    scores, truth = np.asarray(logits, np.float64), np.asarray(labels)
    shape = scores.shape if kind == "labels" else scores.shape[:1]
    if scores.ndim != 2 or truth.shape != shape or np.isnan(scores).any() or (scores == np.inf).any():
        raise RowsError(f"a temperature needs logits (N, C) without NaN, not {scores.shape}, and labels {shape}, "
                        f"not {truth.shape}")  # fmt: skip
    if kind == "classes":
        of_right = scores[np.arange(len(truth)), truth.astype(np.int64)]
        possible = np.isfinite(of_right)
        # how far each class is above the right one
        margins = scores[possible] - of_right[possible, None]
    else:
        margins = np.where(truth > 0, -scores, scores)[np.isfinite(scores)]
    # scaling moves no answer, so that a loss of rows that are all right falls for ever
    if not margins.size or not (margins > 0).any():
        return 1.0

    def loss(log_scale: float) -> float:
        scaled = margins * np.exp(log_scale)
        return float((np.logaddexp(0, scaled) if kind == "labels" else logsumexp(scaled, axis=1)).sum())

    bounds = np.log(1 / HOTTEST), np.log(1 / COLDEST)
    return float(np.exp(-minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-8}).x))
