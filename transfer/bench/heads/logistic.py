"""scikit-learn's `LogisticRegression` at its defaults: another optimiser (L-BFGS, L2), the same kind of head."""

import warnings
from typing import Any

from transfer.bench.heads.case import HeadCase
from transfer.bench.peers.case import Prepared


def regression(case: HeadCase) -> Prepared:
    """As many iterations as its default allows, which may be too few to converge."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    warnings.simplefilter("ignore", ConvergenceWarning)
    x, y, validation_x, validation_y = case.arrays()

    def call() -> Any:
        return LogisticRegression().fit(x, y)

    return Prepared(call, lambda head: float(head.score(validation_x, validation_y)))
