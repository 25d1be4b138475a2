"""The temperature that makes probabilities of scores which are none: fitted on scores of rows that were left out."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from transfer.heads.targets import Targets

# A single number needs no more rows, or scores of all classes.
MAX_ROWS, MAX_SCORES = 10_000, 1 << 22
# Of the natural logarithm of the inverse temperature, for scores of unit deviation.
_BOUNDS = (-7.0, 7.0)


def rows_to_fit(num_rows: int, num_outputs: int) -> np.ndarray:
    """The numbers of the rows to fit a temperature on, int (n,), evenly spread over all of them."""
    max_rows = max(1, min(MAX_ROWS, MAX_SCORES // num_outputs))
    return np.arange(0, num_rows, max(1, -(-num_rows // max_rows)))


def fit(
    scores: np.ndarray, targets: Targets, weight: np.ndarray | None = None, sample_weight: np.ndarray | None = None
) -> float:
    """The T > 0 for which softmax or sigmoid of `scores` / T has the least cross-entropy.

    Args:
        scores: (n, C), finite, of rows that the head was not fitted on.
        targets: classes or labels of the n rows.
        weight: (n,), of each row's loss.
        sample_weight: (n,), of how many equal rows each stands for, which `weight` counts already.

    The targets are smoothed by one part in n + 1 (as Platt's), so that rows which are all right give a finite answer.
    1.0 where the scores say nothing.
    """
    scores, count = np.asarray(scores, np.float64), len(scores) if sample_weight is None else sample_weight.sum()
    weight = np.ones(len(scores)) if weight is None else np.asarray(weight, np.float64)
    of_classes = targets.kind == "classes"
    if of_classes:
        scores = scores - scores.mean(axis=1, keepdims=True)
    if not scores.size or not weight.sum():
        return 1.0
    each = None if sample_weight is None else np.broadcast_to(sample_weight[:, None], scores.shape)
    size = float(np.sqrt(np.average((scores - np.average(scores, weights=each)) ** 2, weights=each)))
    if not size:
        return 1.0
    unit, smooth = scores / size, 1 / (count + 1)
    smoothed = (1 - smooth) * targets.to_matrix().astype(np.float64)
    score_of_right = ((smoothed + smooth / (targets.num_outputs if of_classes else 2)) * unit).sum(axis=1)

    def loss(log_inverse: float) -> float:
        inverse = np.exp(log_inverse)
        total = logsumexp(inverse * unit, axis=1) if of_classes else np.logaddexp(0, inverse * unit).sum(axis=1)
        return float(weight @ (total - inverse * score_of_right) / weight.sum())

    best = minimize_scalar(loss, bounds=_BOUNDS, method="bounded", options={"xatol": 1e-3})
    return size / float(np.exp(best.x))
