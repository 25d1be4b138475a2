"""A grid of 45 penalties of logistic regression (that of DINOv2's evaluation), and one fit of it, ours and others'.

Everybody minimises the same objective on standardised rows. Where a contender fits the whole grid, its accuracy is
the highest of all on the validation rows, as an upper bound; choosing a penalty is another matter (`transfer.sweep`).
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from transfer.bench.heads.case import HeadCase, accuracy
from transfer.bench.peers.case import Prepared
from transfer.heads.logistic_probe import GRID, LogisticProbe


def ours(case: HeadCase) -> Prepared:
    """All values in one `fit_many`."""
    x, y, validation_x, validation_y = case.arrays()

    def call() -> Callable[..., np.ndarray]:
        return LogisticProbe().fit_many(x, y, {"C": GRID})

    return Prepared(call, lambda scores: max(accuracy(one, validation_y) for one in scores(validation_x)))


def one_by_one(case: HeadCase) -> Prepared:
    """All values, a `fit` each."""
    x, y, validation_x, validation_y = case.arrays()

    def call() -> list[LogisticProbe]:
        return [LogisticProbe(value).fit(x, y) for value in GRID]

    return Prepared(call, lambda probes: max(probe.score(validation_x, validation_y) for probe in probes))


def median(case: HeadCase) -> Prepared:
    """The value whose `fit` takes the median number of steps."""
    return _one(case, len(GRID) // 2)


def slowest(case: HeadCase) -> Prepared:
    """The value whose `fit` takes most steps."""
    return _one(case, -1)


def _one(case: HeadCase, rank: int) -> Prepared:
    x, y, validation_x, validation_y = case.arrays()
    chosen = sorted(GRID, key=lambda value: LogisticProbe(value).fit(x, y).n_iter_)[rank]
    return Prepared(lambda: LogisticProbe(chosen).fit(x, y), lambda probe: probe.score(validation_x, validation_y))


def scikit_learn(case: HeadCase) -> Prepared:
    """All values by scikit-learn, at its default tolerance and 1,000 iterations (DINOv2's evaluation has as many)."""
    return _scikit_learn(case, GRID)


def scikit_learn_one(case: HeadCase) -> Prepared:
    """Its default, C = 1."""
    return _scikit_learn(case, (1.0,))


def _scikit_learn(case: HeadCase, values: tuple[float, ...]) -> Prepared:
    warnings.simplefilter("ignore", ConvergenceWarning)
    x, y, validation_x, validation_y = case.arrays()

    def call() -> tuple[StandardScaler, list[Any]]:
        scaler = StandardScaler().fit(x)
        return scaler, [LogisticRegression(C=value, max_iter=1000).fit(scaler.transform(x), y) for value in values]

    def score(fitted: tuple[StandardScaler, list[Any]]) -> float:
        scaler, heads = fitted
        rows = scaler.transform(validation_x)
        return max(float(head.score(rows, validation_y)) for head in heads)

    return Prepared(call, score)
