"""The temperature that makes probabilities of scores which are none: fitted on scores of rows that were left out."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from transfer.heads.targets import Targets

# A single number needs no more rows.
MOST_ROWS = 10_000
# Of the natural logarithm of the inverse temperature, for scores of unit deviation.
_BOUNDS = (-7.0, 7.0)


def some_rows(num_rows: int) -> np.ndarray:
    """int (n,): rows to fit a temperature on, evenly spread over all of them, `MOST_ROWS` at most."""
    return np.arange(0, num_rows, max(1, -(-num_rows // MOST_ROWS)))


def fit(scores: np.ndarray, targets: Targets, weight: np.ndarray | None = None) -> float:
    """The T > 0 for which softmax or sigmoid of `scores` / T has the least cross-entropy.

    Args:
        scores: (n, C), finite, of rows that the head was not fitted on.
        targets: classes or labels of the n rows.
        weight: (n,), of the rows.

    The targets are smoothed by one part in n + 1 (as Platt's), so that rows which are all right give a finite answer.
    1.0 where the scores say nothing.
    """
    scores = np.asarray(scores, np.float64)
    share = np.ones(len(scores)) if weight is None else np.asarray(weight, np.float64)
    if targets.kind == "classes":
        scores = scores - scores.mean(axis=1, keepdims=True)
    size = float(scores.std()) if scores.size else 0.0
    if not size or not share.sum():
        return 1.0
    unit, wide = scores / size, targets.wide().astype(np.float64)
    smooth = 1 / (len(scores) + 1)
    if targets.kind == "classes":
        aims = (1 - smooth) * wide + smooth / targets.num_outputs
    else:
        aims = (1 - smooth) * wide + smooth / 2
    right = (aims * unit).sum(axis=1)

    def loss(log_inverse: float) -> float:
        inverse = np.exp(log_inverse)
        if targets.kind == "classes":
            total = logsumexp(inverse * unit, axis=1)
        else:
            total = np.logaddexp(0, inverse * unit).sum(axis=1)
        return float(share @ (total - inverse * right) / share.sum())

    found = minimize_scalar(loss, bounds=_BOUNDS, method="bounded", options={"xatol": 1e-3})
    return size / float(np.exp(found.x))
