"""scikit-learn's `LogisticRegression`: at its defaults, and as in our sweep on standardised rows."""

import warnings
from collections.abc import Sequence
from typing import Any

from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from transfer.bench.heads.case import HeadCase
from transfer.bench.worker import Prepared

warnings.simplefilter("ignore", ConvergenceWarning)


def defaults(case: HeadCase) -> Prepared:
    """On rows as they are, in as many iterations as its default allows, which may be too few to converge."""
    x, y, validation_x, validation_y = case.arrays()
    return Prepared(lambda: LogisticRegression().fit(x, y), lambda head: float(head.score(validation_x, validation_y)))


def one(case: HeadCase) -> Prepared:
    """Its default penalty, C = 1."""
    return _sweep(case, (1.0,))


def grid(case: HeadCase) -> Prepared:
    """All penalties, at its default tolerance and 1,000 iterations (DINOv2's evaluation has as many)."""
    from transfer.heads.logistic_probe import GRID

    return _sweep(case, GRID)


def _sweep(case: HeadCase, values: Sequence[float]) -> Prepared:
    x, y, validation_x, validation_y = case.arrays()

    def call() -> tuple[StandardScaler, list[Any]]:
        scaler = StandardScaler().fit(x)
        return scaler, [LogisticRegression(C=value, max_iter=1000).fit(scaler.transform(x), y) for value in values]

    def score(fitted: tuple[StandardScaler, list[Any]]) -> float:
        scaler, heads = fitted
        rows = scaler.transform(validation_x)
        return max(float(head.score(rows, validation_y)) for head in heads)

    return Prepared(call, score)
